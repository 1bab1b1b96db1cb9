"""Bilinear interpolation along one axis as a matrix.

Cropping an axis-aligned box out of a map and pasting it back are both separable: rows and columns
are interpolated independently. Written as two small matrices the operation is a pair of matrix
products: fast on every device, differentiable, and exported to ONNX as plain MatMul (no GridSample,
whose support differs between runtimes).
"""

from __future__ import annotations

import torch
from torch import Tensor
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
