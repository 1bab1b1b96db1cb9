"""The models behind the page: one call at a time, a picture's features computed once."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from roiseg.inference.prediction import Prediction
from roiseg.inference.predictor import Predictor
from roiseg.web.pictures import Picture
from roiseg.web.query import Query

# one for all models and images: they share the same cores, memory or GPU
LOCK = threading.Lock()


@dataclass
class Model:
    """A predictor, and which picture it has read.

    Attributes:
        name: shown above its picture.
        predictor: does the work.
    """

    name: str
    predictor: Predictor
    _picture: Picture | None = field(default=None, repr=False)

    @property
    def takes_points(self) -> bool:
        """Does the model read clicks?"""
        return "points" in self.predictor.model.prompts

    def detect(self, picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The detector's own boxes [N, 4] in pixels of the picture, and their scores [N].

        Raises:
            UserError: the predictor has no detector.
        """
        with LOCK:
            self._read(picture)
            found = self.predictor.detect()
        return np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)

    def predict(self, picture: Picture, query: Query) -> tuple[Prediction, float]:
        """Masks of the query's boxes, and the seconds they took, waiting for others not counted.

        The first ones of a picture take the detector's time, too. Clicks are for models that read them.
        """
        points = query.points if self.takes_points else None
        with LOCK:
            start = perf_counter()
            self._read(picture)
            prediction = self.predictor.predict(query.boxes, query.scores, points, query.threshold)
            return prediction, perf_counter() - start

    def _read(self, picture: Picture) -> None:
        if self._picture is not picture:
            self._picture = None  # nothing half-read is taken for the picture if this fails
            self.predictor.set_image(picture)
            self._picture = picture


def to_json(prediction: Prediction, image_id: int) -> dict[str, Any]:
    """A prediction as the page reads it.

    Returns:
        `size`, `windows`; `targets` and `non_targets` (or None), one grey PNG a box in base64, 0..255 for
        0..1 over the box's window; `results`: `Prediction.to_coco`.
    """
    others = prediction.non_targets
    return {
        "size": list(prediction.size),
        "windows": [[int(value) for value in window] for window in prediction.windows],
        "targets": _pictures(prediction.probabilities),
        "non_targets": None if others is None else _pictures(others),
        "results": prediction.to_coco(image_id),
    }


def mask_png(prediction: Prediction, person: int | None) -> bytes:
    """A PNG as large as the picture.

    Args:
        prediction: the masks.
        person: whose mask, 0 or 255 (8 bit); None: all, 0 or 1 + index of the person (16 bit).
    """
    if person is None:
        return png(prediction.label_map())
    return png(prediction.mask(person).astype(np.uint8) * np.uint8(255))


def _pictures(probabilities: Sequence[NDArray[np.float32]]) -> list[str]:
    return [
        base64.b64encode(png(np.rint(values * 255).astype(np.uint8))).decode("ascii")
        for values in probabilities
    ]


def png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Grey values [H, W], uint8 or uint16, as a PNG file."""
    done, encoded = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return encoded.tobytes()
