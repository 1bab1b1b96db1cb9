"""What a model says about the ROIs of a batch, in the forms that are measured."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from roiseg.common.classes import TARGET
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.decoders.base import target_probability
from roiseg.extractor.preprocess import Preprocess
from roiseg.geometry.roi_align import resample
from roiseg.inference.model import OnnxModel, TorchModel
from roiseg.inference.tta import average_views

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # Lightning's names; the mixed ones are autocast


@dataclass(frozen=True)
class Seen:
    """Predictions for the R ROIs of a batch.

    Attributes:
        probabilities: [R, h, w] of the target.
        windows: [R, 4] boxes in input pixels that they are stretched over.
        classes: int64 [R, *size] most probable class on the metric grid over each ROI.
        is_target: bool [R, *size] is the target's probability there 0.5 or more?
    """

    probabilities: Tensor
    windows: Tensor
    classes: Tensor
    is_target: Tensor


class Seer(Protocol):
    """A model that can be measured.

    Attributes:
        num_classes: that its class maps tell apart.
        arithmetic: what it computes in, in words.
    """

    num_classes: int
    arithmetic: str

    def see(self, batch: RoiBatch) -> Seen:
        """Predict the ROIs of a batch with its features, from an evaluation loader."""


class CheckpointSeer:
    """The decoder of a checkpoint, measured as a training's test does: to the same figures.

    Args:
        model: the decoder.
        precision: Lightning's name of the arithmetic, one of `PRECISIONS`.

    Raises:
        UserError: another precision.
    """

    def __init__(self, model: TorchModel, precision: str = "32-true") -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision}, it must be one of {', '.join(PRECISIONS)}")
        self.model = model
        self.num_classes = model.decoder.num_classes
        self.arithmetic = precision

    @torch.inference_mode()
    def see(self, batch: RoiBatch) -> Seen:
        """All looks the batch brings, averaged; see `Seer`."""
        size = (batch.measured.shape[1], batch.measured.shape[2])
        batch = batch.to(self.model.device)
        with _autocast(self.arithmetic, self.model.device):
            seen = average_views(self.model.logits(batch), batch, self.model.decoder, self.model.logits, size)
            shares = seen.on_rois.float().softmax(dim=1)[:, TARGET]
            return Seen(
                target_probability(seen.logits), seen.windows, seen.on_rois.argmax(dim=1), shares >= 0.5
            )


class OnnxSeer:
    """An exported file, which tells the target from the rest.

    Args:
        model: the file.
    """

    num_classes = 2
    arithmetic = "the file's"

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    @torch.inference_mode()
    def see(self, batch: RoiBatch) -> Seen:
        """One look; see `Seer`."""
        masks = self.model.masks(batch)
        size = (batch.measured.shape[1], batch.measured.shape[2])
        height, width = masks.target.shape[1:]
        samples = max(1, math.ceil(max(height / size[0], width / size[1])))
        on_rois = resample(masks.target[:, None], batch.rois[:, 1:].cpu(), size, samples)[:, 0]
        return Seen(masks.target, masks.windows, (on_rois >= 0.5).long(), on_rois >= 0.5)


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """What Lightning runs a test in; half precision on a CPU is bfloat16 there, too."""
    if precision not in ("bf16-mixed", "16-mixed"):
        return contextlib.nullcontext()
    half = precision == "16-mixed" and device.type != "cpu"
    return torch.autocast(device.type, dtype=torch.float16 if half else torch.bfloat16)


class MergedExtractor:
    """Brings images to the detector's input tensor; the file does the rest.

    Args:
        preprocess: the file's.
    """

    identity = ""
    shapes: Sequence[tuple[int, int, int]] = ()

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def run(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """No features."""
        return ()
