"""Predict the images of a source, one at a time."""

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
    """The prediction for one image.

    Attributes:
        source_image: where the image comes from.
        image: RGB uint8 [H, W, 3].
        prediction: its instances.
        image_id: its number, for formats that need one.
    """

    source_image: SourceImage
    image: NDArray[np.uint8]
    prediction: Prediction
    image_id: int


@dataclass
class PredictionCounts:
    """Counts of the images processed so far."""

    images: int = 0
    empty: int = 0  # images without an instance
    instances: int = 0
    unlisted: int = 0  # images that the file of boxes does not know
    exif_turned: list[str] = field(default_factory=list)  # turned by EXIF, size not in the file of boxes
    skipped: list[str] = field(default_factory=list)  # reasons
    seconds: float = 0.0  # of the detector and the decoder


class ImagePredictions:
    """Iterates over the predictions of all images; memory does not grow with their number.

    Args:
        predictor: the model.
        source: the images.
        boxes: the boxes; None: those of the detector.
        min_score: boxes with a lower score are ignored.
        threshold: minimum probability of a mask pixel.
        pixel_size: see `Predictor.set_image`.
        skip: skip and count images that cannot be read or have too many boxes, instead of raising.

    Attributes:
        counts: what has been processed so far.

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
        self.counts = PredictionCounts()
        self._number = image_ids(source)

    def __iter__(self) -> Iterator[ImageResult]:
        for source_image in track(self.source, "predicting", total=len(self.source)):
            try:
                image = source_image.read()
            except UserError as error:
                self._skip(error)
                continue
            try:
                result = self._result(source_image, image)
            except TooMuch as error:
                self._skip(UserError(f"image {source_image.name}: {error}"))
                continue
            yield result

    def _skip(self, error: UserError) -> None:
        if not self.skip:
            raise UserError(f"{error}; on_error=skip leaves it out") from None
        self.counts.skipped.append(str(error))

    def _result(self, source_image: SourceImage, image: NDArray[np.uint8]) -> ImageResult:
        size = (image.shape[0], image.shape[1])
        listed = None if self.boxes is None else self.boxes.find(source_image, size)
        start = time.perf_counter()
        self.predictor.set_image(image, self.pixel_size)
        if self.boxes is None:
            detected = self.predictor.detect()
            found = ImageBoxes(detected.boxes, detected.scores)
        else:
            found = listed or ImageBoxes.of_rows([])
        kept = found.scores >= self.min_score
        prediction = self.predictor.predict(found.boxes[kept], found.scores[kept], threshold=self.threshold)
        self.counts.seconds += time.perf_counter() - start
        self.counts.images += 1
        self.counts.instances += len(prediction)
        self.counts.empty += not len(prediction)
        self.counts.unlisted += self.boxes is not None and listed is None
        path = source_image.path
        if listed is not None and not listed.size_matches and path is not None and exif_rotated_size(path):
            self.counts.exif_turned.append(source_image.name)
        return ImageResult(source_image, image, prediction, self._image_id(source_image, listed))

    def _image_id(self, source_image: SourceImage, listed: ImageBoxes | None) -> int:
        """Return the id in the file of boxes; a negative one if a file with ids does not know the image."""
        if listed is not None and listed.image_id is not None:
            return listed.image_id
        if self.boxes is not None and self.boxes.has_ids:
            return -1 - source_image.number
        return self._number(source_image)


def knows_any(boxes: BoxFile, source: Source) -> bool:
    """Return whether a file of boxes knows any image of a source."""
    return any(map(boxes.lists, source.names()))
