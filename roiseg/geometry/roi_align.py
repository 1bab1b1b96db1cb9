"""RoIAlign (He et al., Mask R-CNN, 2017) and other bilinear interpolation in pure PyTorch.

Cropping an axis-aligned box out of a map and pasting it back are separable: rows and columns are interpolated
independently. Written as two small matrices the operation is a pair of matrix products: fast on every device,
differentiable, and exported to ONNX as plain MatMul (no GridSample, whose support differs between runtimes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def bilinear_weights(positions: Tensor, size: int) -> Tensor:
    """Return weights that read a row of `size` cells at `positions`.

    Args:
        positions: [...] in cell units where cell i has its centre at i. Clamped to [0, size - 1].
        size: number of cells.

    Returns:
        [..., size] with at most two non-zero weights that sum to 1.
    """
    cells = torch.arange(size, dtype=positions.dtype, device=positions.device)
    return (1 - (positions.clamp(0, size - 1)[..., None] - cells).abs()).clamp(min=0)


def crop_weights(start: Tensor, end: Tensor, size: int, out: int, sampling_ratio: int) -> Tensor:
    """Return the RoIAlign weights of one axis: the mean of `sampling_ratio` samples in each of `out` bins.

    Args:
        start, end: [R] box edges in continuous cells (cell i covers [i, i+1)).
        size: number of cells of the map along this axis.

    Returns:
        [R, out, size]. Samples more than one cell outside the map count as 0, as in
        torchvision's `roi_align(aligned=True)`.
    """
    steps = torch.arange(out * sampling_ratio, dtype=start.dtype, device=start.device) + 0.5
    positions = start[:, None] + steps * ((end - start) / (out * sampling_ratio))[:, None] - 0.5
    inside = ((positions >= -1) & (positions <= size)).to(start.dtype)
    weights = bilinear_weights(positions, size) * inside[..., None]
    return weights.unflatten(1, (out, sampling_ratio)).mean(dim=2)


def paste_weights(start: Tensor, end: Tensor, size: int, pixels: Tensor) -> Tensor:
    """Return weights that stretch `size` mask cells over [start, end) and read them at pixel centres.

    Args:
        start, end: [R] box edges in continuous pixels.
        size: number of mask cells along this axis.
        pixels: [P] indices of the pixels to fill; pixel i has its centre at i + 0.5.

    Returns:
        [R, P, size]; all zero for pixels whose centre lies outside the box, border cells extend to
        the box's edge.
    """
    centers = pixels.to(start.dtype) + 0.5
    extent = (end - start).clamp(min=1e-6)
    relative = (centers - start[:, None]) / extent[:, None]
    return bilinear_weights(relative * size - 0.5, size) * centers_inside(start, end, pixels)[..., None]


def centers_inside(start: Tensor, end: Tensor, pixels: Tensor) -> Tensor:
    """Return 1 where a pixel centre lies in [start, end), else 0: [R, P] for edges [R] and indices [P]."""
    centers = pixels.to(start.dtype) + 0.5
    return ((centers >= start[:, None]) & (centers < end[:, None])).to(start.dtype)


def cell_cover(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Return the share of each cell [i, i + 1) within [start, end): [R, size] for edges [R] in cells."""
    cells = torch.arange(size, dtype=start.dtype, device=start.device)
    return (torch.minimum(cells + 1, end[:, None]) - torch.maximum(cells, start[:, None])).clamp(0, 1)


def point_sample(maps: Tensor, points: Tensor, map_index: Tensor) -> Tensor:
    """Sample maps at points bilinearly.

    The four cells around each point are gathered by flat index, so that maps are not replicated for the ROIs
    that share them, and ONNX needs only Gather (no GridSample).

    Args:
        maps: [B, C, H, W].
        points: [R, P, 2] x, y in continuous cells (cell i covers [i, i + 1), its centre is at i + 0.5);
            beyond the outermost centres the border values are used.
        map_index: [R] int64 index of the map for each row of points.

    Returns:
        [R, P, C] in the dtype of `maps`.
    """
    height, width = maps.shape[2:]
    cells = maps.permute(0, 2, 3, 1).flatten(0, 2)  # [B * H * W, C]
    x = (points[..., 0] - 0.5).clamp(0, width - 1)
    y = (points[..., 1] - 0.5).clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(0, width - 2)), y.floor().clamp(max=max(0, height - 2))
    right_share, bottom_share = x - left, y - top
    step_x, step_y = min(1, width - 1), width * min(1, height - 1)  # to the next column, the next row
    place = (map_index[:, None] * height + top.long()) * width + left.long()

    def read(offset: int, share: Tensor) -> Tensor:
        return F.embedding(place + offset, cells) * share.to(maps.dtype)[..., None]

    return (
        read(0, (1 - right_share) * (1 - bottom_share))
        + read(step_x, right_share * (1 - bottom_share))
        + read(step_y, (1 - right_share) * bottom_share)
        + read(step_x + step_y, right_share * bottom_share)
    )


_CACHE_NUMBERS = 1 << 18  # of the intermediate product that fit into a core's cache


def roi_align(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], stride: float, sampling_ratio: int = 2
) -> Tensor:
    """Crop each ROI bilinearly out of its image's feature map to a fixed grid.

    Equal to torchvision's `roi_align(..., spatial_scale=1 / stride, aligned=True)` with the same
    `sampling_ratio`. Bilinear sampling is separable for axis-aligned boxes, so each image costs one
    product over its rows for all ROIs together and one over the columns; feature maps are never
    replicated, and the cost does not depend on `sampling_ratio`. A CPU processes a few ROIs at a time, as
    many as fit into its cache, and only the cells they touch.

    Args:
        features: [B, C, H, W].
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image index.
        output_size: (h, w) of the grid.
        stride: input pixels per feature cell.
        sampling_ratio: samples per bin and axis, averaged.

    Returns:
        [R, C, h, w] in channels-last memory format.
    """
    size = (features.shape[2], features.shape[3])
    return crop_rois(features, rois, *roi_weights(rois, size, output_size, stride, sampling_ratio))


def roi_weights(
    rois: Tensor, map_size: tuple[int, int], output_size: tuple[int, int], stride: float, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Return the weights of rows and columns of a map of (H, W) cells: [R, h, H] and [R, w, W].

    They sum to 1 where all samples of a bin lie inside the map (up to one cell outside), to less at its
    border, and to 0 beyond.
    """
    boxes = rois[:, 1:].float() / stride
    rows = crop_weights(boxes[:, 1], boxes[:, 3], map_size[0], output_size[0], sampling_ratio)
    columns = crop_weights(boxes[:, 0], boxes[:, 2], map_size[1], output_size[1], sampling_ratio)
    return rows, columns


def crop_rois(features: Tensor, rois: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Crop ROIs out of features [B, C, H, W] by their `roi_weights`; see `roi_align`."""
    rows, columns = rows.to(features.dtype), columns.to(features.dtype)
    # the number of ROIs is a plain int except during export
    if features.device.type == "cpu" and type(rows.shape[0]) is int and len(rows):
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            features, rows, columns = features.to(dtype), rows.to(dtype), columns.to(dtype)
        crops: Tensor = _CropWindows.apply(features, rows, columns, _counts(features, rois))
        return crops
    maps = features.permute(0, 2, 3, 1)  # [B, H, W, C]
    if type(maps.shape[0]) is not int:  # a graph is exported, for any number of images
        bands = rows @ maps[rois[:, 0].long()].flatten(2)  # [R, h, W * C]
        return (columns[:, None] @ bands.unflatten(2, maps.shape[2:])).permute(0, 3, 1, 2)
    if features.shape[0] == 1:
        return _products(maps[0], rows, columns).permute(0, 3, 1, 2)
    counts = _counts(features, rois)
    parts = zip(maps, rows.split(counts), columns.split(counts), strict=True)
    return torch.cat([_products(*part) for part in parts]).permute(0, 3, 1, 2)


def _counts(features: Tensor, rois: Tensor) -> list[int]:
    """Return the number of ROIs of each image."""
    if len(features) == 1:
        return [len(rois)]
    return torch.bincount(rois[:, 0].long(), minlength=len(features)).tolist()


def resample(maps: Tensor, boxes: Tensor, output_size: tuple[int, int], sampling_ratio: int = 1) -> Tensor:
    """Resample each map bilinearly on a fixed grid over its own box.

    Args:
        maps: [R, C, H, W].
        boxes: [R, 4] x1, y1, x2, y2 in continuous cells of the map.
        output_size: (h, w) of the grid.
        sampling_ratio: samples per bin and axis, averaged.

    Returns:
        [R, C, h, w]; bins more than one cell outside the map are 0.
    """
    boxes = boxes.float()
    rows = crop_weights(boxes[:, 1], boxes[:, 3], maps.shape[2], output_size[0], sampling_ratio)
    columns = crop_weights(boxes[:, 0], boxes[:, 2], maps.shape[3], output_size[1], sampling_ratio)
    rows, columns = rows.to(maps.dtype), columns.to(maps.dtype)
    return rows[:, None] @ maps @ columns[:, None].transpose(2, 3)


def _products(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply features with weights: [H, W, C], [R, h, H], [R, w, W] -> [R, h, w, C]."""
    height, width, channels = image.shape
    bands = rows.flatten(0, 1) @ image.reshape(height, width * channels)  # [R * h, W * C]
    return torch.matmul(columns[:, None], bands.reshape(-1, rows.shape[1], width, channels))


class _CropWindows(torch.autograd.Function):
    """`_products` for a few ROIs at a time, as many as fit into a core's cache, on the cells they touch.

    The gradient has the memory format of the features, so that autograd need not copy it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, columns: Tensor, counts: list[int]) -> Tensor:
        ctx.parts = _parts(rows, columns, features.shape[1], counts)
        ctx.shape = features.shape
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        ctx.format = torch.channels_last if channels_last else torch.contiguous_format
        ctx.save_for_backward(rows, columns)
        maps = features.permute(0, 2, 3, 1)
        return torch.cat([
            _products(maps[image, y, x], rows[some, :, y], columns[some, :, x])
            for image, some, y, x in ctx.parts
        ]).permute(0, 3, 1, 2)  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, columns = ctx.saved_tensors
        of_features = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=ctx.format).zero_()
        of_maps, grad = of_features.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        for image, some, y, x in ctx.parts:
            bands = columns[some, None, :, x].transpose(2, 3) @ grad[some]  # [R, h, W, C]
            window = of_maps[image, y, x]
            window += (rows[some, :, y].flatten(0, 1).T @ bands.flatten(0, 1).flatten(1)).view(window.shape)
        return of_features, None, None, None


def _parts(
    rows: Tensor, columns: Tensor, channels: int, counts: list[int]
) -> list[tuple[int, slice, slice, slice]]:
    """Return the image, ROIs, rows and columns of the map that are processed together."""
    some = max(1, _CACHE_NUMBERS // (rows.shape[1] * columns.shape[2] * channels))
    (top, bottom), (left, right) = _touched(rows), _touched(columns)
    parts, first = [], 0
    for image, count in enumerate(counts):
        for start in range(first, first + count, some):
            rois = slice(start, min(start + some, first + count))
            y = slice(min(top[rois]), max(bottom[rois]))
            parts.append((image, rois, y, slice(min(left[rois]), max(right[rois]))))
        first += count
    return parts


def _touched(weights: Tensor) -> tuple[list[int], list[int]]:
    """Return the first cell with a weight of each ROI, and the end; at least one cell."""
    touched = (weights > 0).any(dim=1).int()
    first, beyond = touched.argmax(dim=1), weights.shape[2] - touched.flip(1).argmax(dim=1)
    return first.tolist(), beyond.tolist()
