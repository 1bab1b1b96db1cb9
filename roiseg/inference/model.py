"""One interface to every trained model: a decoder from a checkpoint or an exported ONNX file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.decoders.base import Context, Decoder, decode_in_chunks
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.base import Detections
from roiseg.extractor.preprocess import Preprocess
from roiseg.geometry.boxes import clip, normalize
from roiseg.geometry.roi_align import resample
from roiseg.inference.checkpoint import Paths, TrainedModel, load_model
from roiseg.inference.decision import Decision, Threshold
from roiseg.inference.onnx_file import OnnxFile, finite
from roiseg.inference.tta import average_views
from roiseg.onnx_export.outputs import MASK_SCORES, MASKS

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # Lightning's names; the mixed ones are autocast
_SAME_BOX = 1e-4  # largest difference of normalized corners; the same box is stored in two units
_AT_ONCE = 128  # ROIs decoded at a time, as in training


def predict_rois(
    logits: Tensor, batch: RoiBatch, decoder: Decoder, decode: Callable[[RoiBatch], Tensor]
) -> RoiPrediction:
    """Average the views of a batch and read class probabilities from them.

    Args:
        logits: [R, K, h, w], `decode(batch)`.
        batch: with features; its views are averaged.
        decoder: knows the extents of its logits.
        decode: runs the decoder on a batch.
    """
    averaged = average_views(logits, batch, decoder, decode, batch.metric_size)
    shares = averaged.logits.float().softmax(dim=1)
    return RoiPrediction(
        shares[:, TARGET],
        shares[:, NON_TARGET] if shares.shape[1] > NON_TARGET else None,
        averaged.extents,
        averaged.roi_grid_logits.float().softmax(dim=1)[:, TARGET],
        averaged.roi_grid_logits.argmax(dim=1),
    )


class RoiModel(Protocol):
    """A trained model, ready to run.

    Attributes:
        path: its file.
        category_id: the COCO category that it was trained on.
        image_size: (H, W) of the detector's input.
        preprocess: converts images to the detector's input tensor.
        prompts: those of `prior` and `points` that it reads.
        num_classes: number of classes in `RoiPrediction.grid_classes`.
        precision: description of its arithmetic.
        decision: makes masks of its predictions for all ROIs of an image.
        summary: decoder, epoch and validation IoU in words, as far as they are known.
    """

    path: Path
    category_id: int
    image_size: tuple[int, int]
    preprocess: Preprocess
    prompts: tuple[str, ...]
    num_classes: int
    precision: str
    decision: Decision
    summary: str

    @property
    def extractor(self) -> OnnxExtractor | FileDetector | None:
        """Return what finds boxes: the detector, or the file itself; None for a file with neither."""

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """Return the batch with the input tensor and, unless the file contains the detector, features."""

    def predict(self, batch: RoiBatch, points: Tensor | None = None) -> RoiPrediction:
        """Predict the ROIs of a batch from `prepare` or an evaluation loader; masks are not decided.

        Args:
            batch: its views are averaged.
            points: [R, P, 3] clicks, see `roiseg.decoders.base.Context`.
        """


class TorchModel:
    """The decoder of a checkpoint.

    Args:
        model: from `load_model`.
        extractor: the detector it was trained on.
        device: the decoder's device; None: the GPU if available.
        precision: one of `PRECISIONS`, Lightning's names.
        decision: None: that of the checkpoint.

    Raises:
        UserError: unknown precision.
    """

    def __init__(
        self,
        model: TrainedModel,
        extractor: OnnxExtractor,
        device: torch.device | str | None = None,
        precision: str = "32-true",
        decision: Decision | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision}, it must be one of {', '.join(PRECISIONS)}")
        self.path = model.path
        self.category_id = model.category_id
        self.extractor = extractor
        self.image_size = model.image_size
        self.preprocess = extractor.preprocess
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.decoder: Decoder = model.decoder.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.prompts = self.decoder.prompts
        self.num_classes = self.decoder.num_classes
        self.precision = precision
        self.decision = decision or model.decision
        self.summary = model.summary

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """Run the detector; see `RoiModel`."""
        return with_features(batch.to(self.device), self.extractor)

    @torch.inference_mode()
    def predict(self, batch: RoiBatch, points: Tensor | None = None) -> RoiPrediction:
        """Predict on the decoder's own grid; see `RoiModel`."""
        batch = batch.to(self.device)
        prompts = None if points is None else points.to(self.device)
        with self._autocast():
            return predict_rois(self.logits(batch, prompts), batch, self.decoder, self.logits)

    def logits(self, batch: RoiBatch, points: Tensor | None = None) -> Tensor:
        """Return [R, K, h, w] of one view, decoded in chunks to bound memory."""
        context = Context(image=batch.inputs, pixel_size=batch.pixel_sizes, points=points)
        logits = decode_in_chunks(self.decoder, batch.features, batch.rois, context, _AT_ONCE).logits
        return finite(logits, self.path)

    def _autocast(self) -> contextlib.AbstractContextManager:
        """Return the autocast that Lightning uses in a test; on a CPU half precision is bfloat16."""
        if self.precision not in ("bf16-mixed", "16-mixed"):
            return contextlib.nullcontext()
        half = self.precision == "16-mixed" and self.device.type != "cpu"
        return torch.autocast(self.device.type, dtype=torch.float16 if half else torch.bfloat16)


class OnnxModel:
    """An exported file, the decoder alone or merged with its extractor; its masks are decided in the graph.

    Args:
        file: the exported file.
        extractor: the detector, for a file that does not contain it, or a `FileDetector`.

    Raises:
        UserError: the file does not give `masks` and `mask_scores`.
    """

    prompts: tuple[str, ...] = ()
    num_classes = 2
    precision = "the file's"
    decision: Decision = Threshold()
    summary = ""

    def __init__(self, file: OnnxFile, extractor: OnnxExtractor | FileDetector | None) -> None:
        file.require_outputs(MASKS, MASK_SCORES)
        self.file = file
        self.path = file.path
        self.category_id = file.category_id
        self.extractor = extractor
        self.image_size = file.image_size
        self.preprocess = file.preprocess

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """Run the detector, unless the file contains it; see `RoiModel`."""
        if self.extractor is not None:
            return with_features(batch, self.extractor)
        return replace(batch, inputs=self.preprocess(batch.images))

    @torch.inference_mode()
    def predict(self, batch: RoiBatch, points: Tensor | None = None) -> RoiPrediction:
        """Predict over the whole input, image by image; see `RoiModel`.

        Raises:
            UserError: the batch has views for test-time augmentation, or clicks are given.
        """
        if batch.views:
            raise UserError(f"{self.path}: test-time augmentation needs a checkpoint, not an exported file")
        if points is not None:
            raise UserError(f"{self.path} reads no points: use a checkpoint of model=sam")
        height, width = self.image_size
        target, scores = map(
            torch.cat, zip(*(self._image(batch, i) for i in range(len(batch.samples))), strict=True)
        )
        extents = torch.tensor([0.0, 0.0, width, height]).expand(len(target), 4)
        size = batch.metric_size
        samples = max(1, math.ceil(max(height / size[0], width / size[1])))
        grid_target = resample(target[:, None], batch.rois[:, 1:].cpu(), size, samples)[:, 0]
        classes = (grid_target >= 0.5).long()
        return RoiPrediction(target, None, extents, grid_target, classes, decided=target, scores=scores)

    def _image(self, batch: RoiBatch, index: int) -> tuple[Tensor, Tensor]:
        height, width = self.image_size
        rois = batch.rois[batch.rois[:, 0] == index, 1:].cpu() / torch.tensor([width, height, width, height])
        if self.file.finds_boxes:
            return self._found(batch, index, rois)
        assert batch.inputs is not None
        one = slice(index, index + 1)
        features = [feature[one] for feature in batch.features]
        return self.file.run(batch.inputs[one], features, rois, batch.pixel_sizes[one])

    def _found(self, batch: RoiBatch, index: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks that the file has found for these ROIs, [N, 4] normalized."""
        sample = batch.samples[index]
        boxes, masks, scores = (feature[index] for feature in batch.features)
        inside = clip(sample.transform.inverse().boxes(boxes.numpy()), sample.original_size)
        found = torch.from_numpy(normalize(sample.transform.boxes(inside), self.image_size))
        distance = (rois[:, None] - found[None]).abs().amax(dim=2)
        if len(rois) and (not len(found) or bool((distance.amin(dim=1) > _SAME_BOX).any())):
            raise UserError(
                f"{self.path} takes no boxes because it detects them itself: leave them out, or export it "
                "without boxes=true"
            )
        chosen = distance.argmin(dim=1) if len(rois) else torch.zeros(0, dtype=torch.long)
        return masks[chosen], scores[chosen]


class FileDetector:
    """The detector in an exported file that finds the boxes itself; its features are the boxes and masks.

    Args:
        file: with `finds_boxes`.

    Raises:
        UserError: the file also reads the size of a pixel, which its boxes do not need.
    """

    identity = ""
    project = None
    shapes: Sequence[tuple[int, int, int]] = ()

    def __init__(self, file: OnnxFile) -> None:
        if file.reads_pixel_size:
            raise UserError(f"{file.path} reads a pixel size: export it without boxes=true to open it here")
        self.file = file
        self.onnx_path = str(file.path)
        self.preprocess = file.preprocess
        self.postprocess = file.box_reader()

    def run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return boxes [1, N, 4], masks [1, N, H, W] and mask scores [1, N] of one image."""
        return self.run_with_detections(inputs)[0]

    def run_with_detections(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], list[Detections]]:
        """Return what `run` does, and the boxes in input pixels with their scores."""
        boxes, scores, masks, mask_scores = self.file.detect(inputs, torch.ones(1))
        labels = np.zeros(len(boxes), np.int64)
        return (boxes[None], masks[None], mask_scores[None]), [
            Detections(boxes.numpy(), scores.numpy(), labels)
        ]


class MergedExtractor:
    """Replaces the extractor for a file that contains its detector: batches get the input tensor only.

    Args:
        preprocess: from image to input tensor.
    """

    identity = ""
    project = None
    shapes: Sequence[tuple[int, int, int]] = ()

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return no features."""
        return ()


def open_model(
    ckpt: Paths | None = None,
    onnx: str | Path | None = None,
    onnx_path: str | None = None,
    device: torch.device | str | None = None,
    postprocess: Any = None,
    decision: Decision | None = None,
) -> RoiModel:
    """Open a checkpoint or an exported ONNX file.

    Args:
        ckpt: a checkpoint, or several for their ensemble ...
        onnx: ... or an exported file; one of them.
        onnx_path: path of the detector; None: the path in training.
        device: of the decoder, for a checkpoint.
        postprocess: configuration that reads the detector's boxes; None: the one in training, if any.
        decision: for a checkpoint; None: its own.

    Raises:
        UserError: neither or both given, or a file that cannot be used.
    """
    if (ckpt is None) == (onnx is None):
        raise UserError("give either ckpt=... (a checkpoint) or onnx=... (an exported file)")
    if ckpt is not None:
        model = load_model(ckpt)
        return TorchModel(model, model.extractor(onnx_path, postprocess), device, decision=decision)
    assert onnx is not None
    file = OnnxFile(onnx)
    return OnnxModel(file, FileDetector(file) if file.finds_boxes else file.extractor(onnx_path, postprocess))


def with_features(batch: RoiBatch, extractor: OnnxExtractor | FileDetector) -> RoiBatch:
    """Return the batch with the detector's input tensor and features, on the device of the batch."""
    inputs = extractor.preprocess(batch.images)
    return replace(batch, inputs=inputs, features=extractor.run(inputs))
