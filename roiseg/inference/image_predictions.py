"""Predictions for all images of a source, one after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.limits import TooMuch
from roiseg.data.images import exif_rotated_size
from roiseg.inference.box_files.base import BoxFile, ImageBoxes
from roiseg.inference.prediction import Prediction
from roiseg.inference.predictor import Predictor
from roiseg.inference.sources.source import Source, SourceImage, image_ids

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageResult:
    """One image and what was predicted.

    Attributes:
        frame: where the image is from.
        image: RGB uint8 [H, W, 3].
        prediction: its instances; may be none.
        image_id: for formats that tell images by number.
    """

    frame: SourceImage
    image: NDArray[np.uint8]
    prediction: Prediction
    image_id: int


@dataclass
class PredictionCounts:
    """What has been counted so far."""

    images: int = 0
    empty: int = 0  # images without anyone
    persons: int = 0
    unlisted: int = 0  # images that the boxes' file does not know
    turned: list[str] = field(default_factory=list)  # by EXIF, while the boxes' file has no size of them
    skipped: list[str] = field(default_factory=list)  # why an image was left out
    seconds: float = 0.0  # of detector and decoder


class ImagePredictions:
    """Predicts for one image after another; memory does not grow with their number.

    Args:
        predictor: the model.
        source: the images.
        boxes: whose boxes; None: the detector's own.
        min_score: boxes with a lower score are left out.
        threshold: probability from which on a pixel is mask.
        pixel_size: see `Predictor.set_image`.
        skip: leave out and count images that cannot be read or have too many boxes; else raise.

    Attributes:
        tally: counts of what has been iterated over.

    Raises:
        UserError: `boxes` knows none of the images.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: Source,
        boxes: BoxFile | None = None,
        min_score: float = 0.0,
        threshold: float = 0.5,
        pixel_size: float = 1.0,
        skip: bool = False,
    ) -> None:
        if boxes is not None and not knows_any(boxes, source):
            raise UserError(
                f"boxes file {boxes.path} names none of the images ({next(source.names())}, ...): "
                "give the file that belongs to this source"
            )
        self.predictor = predictor
        self.source = source
        self.boxes = boxes
        self.min_score = min_score
        self.threshold = threshold
        self.pixel_size = pixel_size
        self.skip = skip
        self.tally = PredictionCounts()
        self._number = image_ids(source)

    def __iter__(self) -> Iterator[ImageResult]:
        for frame in track(self.source, "predicting", total=len(self.source)):
            try:
                image = frame.read()
            except UserError as error:
                self._leave_out(error)
                continue
            try:
                result = self._result(frame, image)
            except TooMuch as error:
                self._leave_out(UserError(f"image {frame.name}: {error}"))
                continue
            yield result

    def _leave_out(self, error: UserError) -> None:
        if not self.skip:
            raise UserError(f"{error}; on_error=skip goes on without it") from None
        self.tally.skipped.append(str(error))

    def _result(self, frame: SourceImage, image: NDArray[np.uint8]) -> ImageResult:
        given = None if self.boxes is None else self.boxes.find(frame, (image.shape[0], image.shape[1]))
        start = time.perf_counter()
        self.predictor.set_image(image, self.pixel_size)
        if self.boxes is None:
            detected = self.predictor.detect()
            found = ImageBoxes(detected.boxes, detected.scores)
        else:
            found = given or ImageBoxes.of_rows([])
        kept = found.scores >= self.min_score
        prediction = self.predictor.predict(found.boxes[kept], found.scores[kept], threshold=self.threshold)
        self.tally.seconds += time.perf_counter() - start
        self.tally.images += 1
        self.tally.persons += len(prediction)
        self.tally.empty += not len(prediction)
        self.tally.unlisted += self.boxes is not None and given is None
        if given is not None and not given.sized and frame.path is not None and exif_rotated_size(frame.path):
            self.tally.turned.append(frame.name)
        return ImageResult(frame, image, prediction, self._image_id(frame, given))

    def _image_id(self, frame: SourceImage, given: ImageBoxes | None) -> int:
        """The id in the boxes' file; below 0 for an image that a file with ids does not know."""
        if given is not None and given.image_id is not None:
            return given.image_id
        return -1 - frame.number if self.boxes is not None and self.boxes.has_ids else self._number(frame)


def knows_any(boxes: BoxFile, source: Source) -> bool:
    """Does a file of boxes know any image of a source?"""
    return any(map(boxes.lists, source.names()))
