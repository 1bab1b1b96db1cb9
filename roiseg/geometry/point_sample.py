"""Bilinear reading of maps at single points."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def point_sample(maps: Tensor, points: Tensor, owners: Tensor) -> Tensor:
    """Read maps at points, bilinearly.

    The four cells around each point are gathered by their place in memory, so that no map is replicated
    for the many ROIs that read it, and ONNX needs a plain Gather (no GridSample).

    Args:
        maps: [B, C, H, W].
        points: [R, P, 2] x, y in continuous cells (cell i covers [i, i + 1), its centre is at i + 0.5);
            beyond the outermost centres the border's values hold.
        owners: [R] int64, which map each row of points reads.

    Returns:
        [R, P, C] in the type of `maps`.
    """
    height, width = maps.shape[2:]
    cells = maps.permute(0, 2, 3, 1).flatten(0, 2)  # [B * H * W, C]
    x = (points[..., 0] - 0.5).clamp(0, width - 1)
    y = (points[..., 1] - 0.5).clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(0, width - 2)), y.floor().clamp(max=max(0, height - 2))
    right_share, bottom_share = x - left, y - top
    step_x, step_y = min(1, width - 1), width * min(1, height - 1)  # to the next column, the next row
    place = (owners[:, None] * height + top.long()) * width + left.long()

    def read(offset: int, share: Tensor) -> Tensor:
        return F.embedding(place + offset, cells) * share.to(maps.dtype)[..., None]

    return (
        read(0, (1 - right_share) * (1 - bottom_share))
        + read(step_x, right_share * (1 - bottom_share))
        + read(step_y, (1 - right_share) * bottom_share)
        + read(step_x + step_y, right_share * bottom_share)
    )
