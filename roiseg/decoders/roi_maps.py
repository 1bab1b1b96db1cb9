"""Maps over the whole input that tell a convolution where a ROI lies."""

from __future__ import annotations

import torch
from torch import Tensor

from roiseg.geometry.interpolation import cell_cover

ROI_MAPS = ("inside", "dx", "dy", "width", "height", "relative_x", "relative_y")
MAX_RELATIVE = 4.0  # sides of the ROI; a narrow ROI's relative coordinates would grow without end


def roi_maps(rois: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Draw the maps `ROI_MAPS` of each ROI; distances are those of cell centres from the ROI's centre.

    Args:
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels.
        image_size: (H, W) of the input in pixels.
        size: (h, w) of the maps.

    Returns:
        float32 [R, 7, h, w]: share of the cell inside the ROI; distance in x and y as a share of the
        input's width and height; the ROI's width and height as such shares; distance in x and y in
        widths and heights of the ROI, within -4..4.
    """
    boxes = rois[:, 1:].float()
    cover_x, dx, width, relative_x = _along(boxes[:, 0], boxes[:, 2], image_size[1], size[1])
    cover_y, dy, height, relative_y = _along(boxes[:, 1], boxes[:, 3], image_size[0], size[0])
    inside = cover_y[:, :, None] * cover_x[:, None, :]
    columns = torch.stack([dx, relative_x], dim=1)[:, :, None, :].expand(-1, -1, *size)
    rows = torch.stack([dy, relative_y], dim=1)[:, :, :, None].expand(-1, -1, *size)
    sides = torch.stack([width, height], dim=1)[:, :, None, None].expand(-1, -1, *size)
    return torch.cat(
        [inside[:, None], columns[:, :1], rows[:, :1], sides, columns[:, 1:], rows[:, 1:]], dim=1
    )


def _along(start: Tensor, end: Tensor, pixels: int, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One axis: cover [R, cells], distance [R, cells], side [R], relative coordinate [R, cells]."""
    edges = torch.arange(cells, dtype=start.dtype, device=start.device) * (pixels / cells)
    cover = cell_cover(start * (cells / pixels), end * (cells / pixels), cells)
    distance = edges + pixels / cells / 2 - ((start + end) / 2)[:, None]
    relative = distance / (end - start).clamp(min=1e-6)[:, None]
    return cover, distance / pixels, (end - start) / pixels, relative.clamp(-MAX_RELATIVE, MAX_RELATIVE)
