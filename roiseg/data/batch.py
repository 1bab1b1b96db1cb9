"""What flows from the loader to the decoder: samples (one image) and batches (several)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.geometry.boxes import Boxes
from roiseg.geometry.letterbox import Transform


@dataclass(frozen=True)
class RoiSample:
    """One image with its ROIs."""

    image_index: int
    file_name: str
    image: NDArray[np.uint8]  # [H, W, 3] RGB, the extractor's input size
    transform: Transform  # original -> input pixels
    original_size: tuple[int, int]  # (H, W)
    rois: Boxes  # [r, 4] input pixels
    targets: NDArray[np.uint8]  # [r, h, w]
    truths: list[dict[str, Any]] = field(default_factory=list)  # RLE [r] at original size (evaluation only)


@dataclass
class RoiBatch:
    """Images, and the ROIs that hang on them, sorted by image."""

    images: Tensor  # uint8 [B, H, W, 3] RGB
    rois: Tensor  # float32 [R, 5] image index, x1, y1, x2, y2 in input pixels
    targets: Tensor  # uint8 [R, h, w]
    samples: Sequence[RoiSample]  # for what only some readers need: names, transforms, truths
    features: tuple[Tensor, ...] = ()  # [B, C_l, H_l, W_l] a layer, set once the extractor has run

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RoiBatch:
        """Return the batch with its tensors on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            images=move(self.images),
            rois=move(self.rois),
            targets=move(self.targets),
            features=tuple(move(f) for f in self.features),
        )

    def pin_memory(self) -> RoiBatch:
        """Return the batch in page-locked memory."""
        return replace(
            self,
            images=self.images.pin_memory(),
            rois=self.rois.pin_memory(),
            targets=self.targets.pin_memory(),
        )

    def original_boxes(self) -> list[Boxes]:
        """The ROIs of each image in its original pixels."""
        rois = self.rois.cpu().numpy()
        return [
            sample.transform.inverse().boxes(rois[rois[:, 0] == i, 1:])
            for i, sample in enumerate(self.samples)
        ]


def collate(samples: Sequence[RoiSample]) -> RoiBatch:
    """Join samples into a batch."""
    rois = [np.insert(sample.rois, 0, i, axis=1) for i, sample in enumerate(samples)]
    return RoiBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        rois=torch.from_numpy(np.concatenate(rois).astype(np.float32)),
        targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples])),
        samples=[replace(sample, image=sample.image[:0], targets=sample.targets[:0]) for sample in samples],
    )
