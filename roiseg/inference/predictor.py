"""The Python interface: set an image once, then predict masks for any boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.lazy import LazyArrays
from roiseg.common.limits import MASK_BYTES, MAX_BOXES, TooMuch
from roiseg.data.batch import RoiBatch, RoiPrediction, RoiSample, RoiTruth, collate
from roiseg.data.tta import TTA, hflip
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.base import Detections
from roiseg.geometry.boxes import Boxes, as_boxes, clip
from roiseg.geometry.paste import paste_crop, paste_window
from roiseg.geometry.transform import Letterbox
from roiseg.inference.checkpoint import Paths
from roiseg.inference.decision import Decision
from roiseg.inference.model import FileDetector, RoiModel, open_model
from roiseg.inference.prediction import Prediction

_CHUNK = 64  # ROIs per run of the decoder, which bounds its memory


class Predictor:
    """Predicts masks for boxes.

    The detector runs once per image, when its features are first needed; each `predict` then runs only the
    decoder.

        predictor = Predictor.from_checkpoint("checkpoint_epoch_0010_416x416_6342.pth")
        predictor.set_image(image)
        prediction = predictor.predict([[10, 20, 120, 300]])
        prediction.masks()  # bool [1, H, W]

    Args:
        model: from `open_model`.
        tta: test-time augmentation: average the masks over these views. Each needs a run of the detector;
            crops need one in every `predict`.
        max_boxes: maximum number of boxes per image.
    """

    def __init__(self, model: RoiModel, tta: TTA | None = None, max_boxes: int = MAX_BOXES) -> None:
        self.model = model
        self.tta = tta
        self.max_boxes = max_boxes
        self._image: NDArray[np.uint8] | None = None
        self._letterbox: Letterbox = model.preprocess.letterbox

    @classmethod
    def from_checkpoint(
        cls,
        path: Paths,
        onnx_path: str | None = None,
        device: torch.device | str | None = None,
        postprocess: dict[str, Any] | None = None,
        tta: TTA | None = None,
        decision: Decision | None = None,
    ) -> Predictor:
        """Open a checkpoint of `python -m roiseg.train`.

        Args:
            path: the checkpoint; several: their class probabilities are averaged (an ensemble).
            onnx_path: path of the detector; None: the path in training.
            device: the decoder's device; None: the GPU if available.
            postprocess: configuration that reads the detector's boxes (`extractor.postprocess`); None: the
                one in training.
            tta: see the class.
            decision: how masks follow from probabilities; None: as fitted in training.

        Raises:
            UserError: a file is missing or damaged, or the files do not belong together.
        """
        return cls(open_model(path, None, onnx_path, device, postprocess, decision), tta)

    @classmethod
    def from_onnx(
        cls, path: str | Path, onnx_path: str | None = None, postprocess: dict[str, Any] | None = None
    ) -> Predictor:
        """Open a file of `python -m roiseg.export`.

        Args:
            path: the decoder, alone or merged with the detector. A file that was exported with boxes=true
                finds the boxes itself and takes no others.
            onnx_path: the detector; needed if the file does not contain it, and for the detector's boxes.
            postprocess: see `from_checkpoint`.

        Raises:
            UserError: see `from_checkpoint`.
        """
        return cls(open_model(onnx=path, onnx_path=onnx_path, postprocess=postprocess))

    @property
    def has_detector(self) -> bool:
        """Tell whether `detect` can be called."""
        return self.model.extractor is not None and self.model.extractor.postprocess is not None

    def set_image(self, image: NDArray[np.uint8], pixel_size: float = 1.0) -> None:
        """Set the image.

        Args:
            image: RGB uint8 [H, W, 3].
            pixel_size: size of a pixel in the unit of the training data: micrometres, or 1 if unknown there.

        Raises:
            UserError: wrong shape or type.
        """
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
        ):
            found = (
                f"{image.dtype} {list(image.shape)}"
                if isinstance(image, np.ndarray)
                else type(image).__name__
            )
            raise UserError(f"the image must be RGB uint8 [H, W, 3], got {found}")
        if 0 in image.shape:
            raise UserError(f"the image is empty: {list(image.shape)}")
        size = (image.shape[0], image.shape[1])
        transform = self._letterbox.fit(*size)
        sample = RoiSample(
            0, 0, "", self._letterbox.apply(image, transform), transform, size,
            np.zeros((0, 4), np.float32), _NO_TARGETS, truth=RoiTruth(metric_targets=_GRID),
            pixel_size=pixel_size / transform.scale,
        )  # fmt: skip
        self._image, self._sample = image, sample
        self._whole: RoiBatch | None = None
        self._flipped: RoiBatch | None = None
        self._found: Detections | None = None

    def detect(self) -> Detections:
        """Return the detector's boxes in pixels of the image, from the same run as the features.

        Raises:
            UserError: no image is set, or the detector's output cannot be read.
        """
        sample = self._current()
        if self._found is None:
            extractor = self._require_extractor()
            whole = collate([sample])
            inputs = extractor.preprocess(whole.images)
            features, (found,) = extractor.run_with_detections(inputs)
            if self._whole is None:
                self._whole = replace(whole, inputs=inputs, features=features)
            boxes = clip(sample.transform.inverse().boxes(found.boxes), sample.original_size)
            inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # not entirely in the padding
            self._found = Detections(boxes[inside], found.scores[inside], found.labels[inside])
        return self._found

    def predict(
        self,
        boxes: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        points: ArrayLike | None = None,
        threshold: float = 0.5,
    ) -> Prediction:
        """Predict the mask of the target in each box.

        Args:
            boxes: [N, 4] x1, y1, x2, y2 in pixels of the image; None: the boxes of `detect`.
            scores: [N] of the boxes; None: 1, or those of the detector.
            points: [N, P, 3] clicks for decoders that read them (`sam`): x, y in pixels of the image, label
                1 on the target, 0 off it, -1 no click.
            threshold: minimum of a mask's pixels, see `Prediction`.

        Raises:
            UserError: no image is set, invalid or too many boxes, or prompts that the model does not read.
        """
        sample = self._current()
        if boxes is None:
            found = self.detect()
            boxes, scores = found.boxes, found.scores if scores is None else scores
        wanted = checked_boxes(boxes)
        weights = np.ones(len(wanted)) if scores is None else np.asarray(scores)
        if weights.shape != (len(wanted),):
            raise UserError(
                f"scores must be one number per box ({len(wanted)}), got shape {list(weights.shape)}"
            )
        if not np.isfinite(weights).all():
            raise UserError("scores must be finite numbers, one is nan or infinite")
        clicks = None if points is None else self._clicks(points, len(wanted))
        if len(wanted) > self.max_boxes:
            raise TooMuch(f"{len(wanted):,} boxes in one image, {self.max_boxes:,} at most (max_boxes)")
        grids = list(self._grids(sample, wanted, clicks))
        size = sample.original_size
        windows = [paste_window(grid.roi, size) for grid in grids]
        scores_of_masks = np.array([grid.score for grid in grids], np.float32)
        complete = grids and grids[0].non_target is not None
        return Prediction(
            size, wanted, weights.astype(np.float32), scores_of_masks, windows,
            LazyArrays(len(grids), lambda i: grids[i].paste(grids[i].mask, size), MASK_BYTES),
            LazyArrays(len(grids), lambda i: grids[i].paste(grids[i].non_target, size)) if complete else None,
            threshold, self.model.category_id, self.model.decision.exclusive,
        )  # fmt: skip

    def _grids(self, sample: RoiSample, boxes: Boxes, points: Tensor | None) -> Iterator[_Grid]:
        """Yield the decided mask of each box, at the decoder's resolution."""
        parts = []
        for start in range(0, len(boxes), _CHUNK):
            some = slice(start, start + _CHUNK)
            batch = self._batch(sample, boxes[some], self.tta if points is None else None)
            parts.append(self.model.predict(batch, None if points is None else points[some]).cpu())
        if not parts:
            return
        whole = collate([replace(sample, rois=sample.transform.boxes(boxes))])
        found = RoiPrediction.map_tensors(torch.cat, *parts)
        found = self.model.decision(found, whole.rois, self.model.image_size)
        (extents,), scores = whole.original_boxes(found.extents), found.scores
        assert scores is not None
        for index, (roi, extent) in enumerate(zip(boxes, extents, strict=True)):
            other = None if found.non_target is None else found.non_target[index]
            yield _Grid(roi, extent, found.masks[index], other, float(scores[index]))

    def _batch(self, sample: RoiSample, boxes: Boxes, tta: TTA | None) -> RoiBatch:
        """Return a batch with the image, its cached features and the ROIs; crops are always computed."""
        if self._whole is None:
            self._whole = self.model.prepare(collate([sample]))
        with_rois = replace(sample, rois=sample.transform.boxes(boxes))
        if tta is not None and self._image is not None:
            with_rois = replace(with_rois, views=tta.crops(with_rois, self._image, self._letterbox, boxes))
        batch = collate([with_rois])
        whole = replace(batch, inputs=self._whole.inputs, features=self._whole.features)
        views = [self.model.prepare(view) for view in batch.views]
        if tta is not None and tta.hflip:
            if self._flipped is None:
                self._flipped = self.model.prepare(hflip(whole))
            flipped = self._flipped
            views.append(replace(hflip(whole), inputs=flipped.inputs, features=flipped.features))
            views += [self.model.prepare(hflip(view)) for view in batch.views]
        return replace(whole, views=tuple(views))

    def _clicks(self, points: ArrayLike, count: int) -> Tensor:
        if "points" not in self.model.prompts:
            raise UserError(f"{self.model.path} reads no points: use a checkpoint of model=sam")
        clicks = np.asarray(points, np.float32)
        if clicks.ndim != 3 or clicks.shape[0] != count or clicks.shape[2] != 3:
            raise UserError(f"points must be [{count}, P, 3] (x, y, label), got {list(clicks.shape)}")
        clicks[..., :2] = self._sample.transform.points(clicks[..., :2])
        return torch.from_numpy(clicks)

    def _current(self) -> RoiSample:
        if self._image is None:
            raise UserError("no image is set: call set_image first")
        return self._sample

    def _require_extractor(self) -> OnnxExtractor | FileDetector:
        extractor = self.model.extractor
        if extractor is None:
            raise UserError(
                f"{self.model.path} contains the detector: give it as onnx_path, too, for its boxes"
            )
        return extractor


@dataclass(frozen=True)
class _Grid:
    """The mask of one box on the decoder's grid, which covers `extent` [x1, y1, x2, y2]."""

    roi: NDArray[np.float32]
    extent: NDArray[np.float32]
    mask: Tensor
    non_target: Tensor | None
    score: float

    def paste(self, mask: Tensor | None, size: tuple[int, int]) -> NDArray[np.float32]:
        """Paste into the window that the box touches, at the image's resolution."""
        assert mask is not None
        return paste_crop(mask, self.extent, size, within=self.roi)[0]


_NO_TARGETS = np.zeros((0, 1, 1), np.uint8)
# the ROI grid on which the views of decoders that predict on the whole image are averaged
_GRID = np.zeros((0, 56, 56), np.uint8)


def checked_boxes(boxes: ArrayLike) -> Boxes:
    """Convert boxes to float32 [N, 4].

    Raises:
        UserError: wrong shape, a value that is not finite, or a box without area.
    """
    try:
        array = as_boxes(boxes)
    except (ValueError, TypeError) as error:
        raise UserError(f"boxes must be [N, 4] numbers x1, y1, x2, y2 ({error})") from None
    wrong = ~(np.isfinite(array).all(axis=1) & (array[:, 2:] > array[:, :2]).all(axis=1))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"boxes[{index}] {array[index].tolist()} is not a box: it needs x1 < x2 and y1 < y2, in pixels"
        )
    return array
