"""RoIAlign as two matrix products compared with grid_sample, and with torchvision where it is installed.

`python -m benchmarks.roi_align`

The floor: features are read once and crops written once, at the speed of a copy in memory; backward the
same again. The products' operations are counted beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peak import bandwidth, gemm_flops
from benchmarks.report import show
from benchmarks.timing import race
from roiseg.geometry.roi_align import roi_align

STRIDE = 8


@dataclass(frozen=True)
class Setting:
    """What is cropped: [2, channels, side, side] features, 4 ROIs per image, size x size bins."""

    channels: int
    side: int
    size: int
    ratio: int

    @property
    def name(self) -> str:
        """Return the name in the table."""
        return f"{self.channels}x{self.side}x{self.side} to {self.size}, ratio {self.ratio}"

    def flops(self) -> int:
        """Return the operations of the two products over the whole map, per ROI."""
        return 2 * self.channels * self.size * self.side * (self.side + self.size)

    def bytes(self) -> float:
        """Return the bytes of features read once and crops written once, per ROI with 4 ROIs per image."""
        return 4 * self.channels * (self.side**2 / 4 + self.size**2)


SETTINGS = [
    Setting(channels, side, size, ratio)
    for channels, side in ((128, 52), (256, 80), (1024, 80))
    for size, ratio in ((14, 2), (28, 2), (28, 4))
]


def roi_align_on_grid_sample(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], stride: float, sampling_ratio: int
) -> Tensor:
    """Compute RoIAlign conventionally, equal to `roi_align` for ROIs inside the map.

    All samples of an image's ROIs are one tall grid, so that no feature map is replicated; samples of
    a bin are averaged by pooling.
    """
    height, width = features.shape[2:]
    rows, columns = (side * sampling_ratio for side in output_size)
    steps_y = (torch.arange(rows) + 0.5) / rows
    steps_x = (torch.arange(columns) + 0.5) / columns
    crops = []
    for index in range(len(features)):
        x1, y1, x2, y2 = (rois[rois[:, 0] == index, 1:, None] / stride).unbind(1)
        y = (y1 + steps_y * (y2 - y1)) * 2 / height - 1  # [R, rows], -1..1 from edge to edge
        x = (x1 + steps_x * (x2 - x1)) * 2 / width - 1
        grid = torch.stack(
            [x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=3
        ).flatten(0, 1)
        image = features[index : index + 1]
        samples = F.grid_sample(image, grid[None], padding_mode="border", align_corners=False)
        crops.append(samples[0].unflatten(1, (-1, rows)).transpose(0, 1))
    return F.avg_pool2d(torch.cat(crops), sampling_ratio)


def roi_align_of_torchvision(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], stride: float, sampling_ratio: int
) -> Tensor:
    """Compute RoIAlign with torchvision's kernel, with half-pixel centres as in `roi_align`."""
    from torchvision.ops import roi_align as kernel

    return kernel(features, rois, output_size, 1 / stride, sampling_ratio, aligned=True)


def example(setting: Setting) -> tuple[Tensor, Tensor]:
    """Return features and 8 ROIs with the shape of a person inside the map."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, setting.channels, setting.side, setting.side, generator=generator)
    pixels = setting.side * STRIDE
    corner = torch.rand(8, 2, generator=generator) * 0.6 * pixels
    size = torch.tensor([0.15, 0.4]) * pixels
    index = torch.arange(8)[:, None] // 4
    return features, torch.cat([index, corner, corner + size], dim=1)


def ways(setting: Setting, backward: bool) -> dict[str, Callable[[], object]]:
    """Return the ways on one example, forward, or forward and back to the features."""
    features, rois = example(setting)
    size = (setting.size, setting.size)

    def run(align: Callable[..., Tensor]) -> Callable[[], object]:
        def once() -> object:
            if not backward:
                return align(features, rois, size, STRIDE, setting.ratio)
            learning = features.detach().requires_grad_()
            align(learning, rois, size, STRIDE, setting.ratio).sum().backward()
            return learning.grad

        return once

    found = {"products": run(roi_align), "grid_sample": run(roi_align_on_grid_sample)}
    return found | ({"torchvision": run(roi_align_of_torchvision)} if find_spec("torchvision") else {})


def main() -> None:
    """Measure all settings."""
    speed, peak = bandwidth("cpu"), gemm_flops("cpu", torch.float32)
    rows = []
    for setting in SETTINGS:
        for backward in (False, True):
            timings = race(ways(setting, backward), rounds=5)
            ours, usual = (timings[name].median / 8 for name in ("products", "grid_sample"))
            peer = timings["torchvision"].median / 8 if "torchvision" in timings else None
            rows.append([
                f"{setting.name}{' +back' if backward else ''}",
                f"{1e3 * ours:.3f}",
                f"{1e3 * usual:.3f}",
                f"{usual / ours:.1f}x",
                "not installed" if peer is None else f"{1e3 * peer:.3f}",
                "" if peer is None else f"{peer / ours:.1f}x",
                f"{1e3 * setting.bytes() * (2 if backward else 1) / speed:.3f}",
                f"{setting.flops() * (2 if backward else 1) / 1e6:.0f}",
            ])  # fmt: skip
    columns = ["ms a ROI", "ours", "grid_sample", "ratio", "torchvision", "ratio", "floor", "MFLOP"]
    note = (
        f"float32; floor: bytes at the speed of a copy, {speed / 1e9:.1f} GB/s; MFLOP: products over the "
        f"whole map, of which a CPU does a part (best product: {peak / 1e9:.0f} GFLOP/s)"
    )
    show("RoIAlign, 2 images of 4 ROIs", columns, rows, note)


if __name__ == "__main__":
    main()
