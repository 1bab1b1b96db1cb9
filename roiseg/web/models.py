"""The models behind the page: one call at a time, an image's features computed once."""

from __future__ import annotations

import base64
import io
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roiseg.common.errors import UserError
from roiseg.data.images import to_rgb
from roiseg.inference.prediction import Prediction
from roiseg.inference.predictor import Predictor
from roiseg.web.requests import Query

Picture = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG")
_KEPT = 8


@dataclass(frozen=True)
class Limits:
    """The largest image that is taken: its file in MB (10^6 bytes), its pixels in millions."""

    megabytes: float = 20
    megapixels: float = 40

    def __post_init__(self) -> None:
        for name, value in (("megabytes", self.megabytes), ("megapixels", self.megapixels)):
            if not value > 0:
                raise UserError(f"limits.{name} must be above 0, got {value}")

    @property
    def bytes(self) -> int:
        """The largest file, in bytes."""
        return round(self.megabytes * 1e6)


def decode(content: bytes, limits: Limits) -> Picture:
    """Decode a JPEG or PNG file to RGB uint8 [H, W, 3], turned as its EXIF orientation says.

    Raises:
        UserError: another format, damaged, or too many pixels, which is found out before any is decoded.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            width, height = file.size
            if width * height > limits.megapixels * 1e6:
                raise UserError(_too_many_pixels(f"{width} x {height} pixels", limits))
            return to_rgb(file)
    except Image.UnidentifiedImageError:
        raise UserError("this is no JPEG or PNG image: choose one that is") from None
    except Image.DecompressionBombError:
        raise UserError(_too_many_pixels("far too many pixels", limits)) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"the image is damaged ({error}): choose another one") from None


def _too_many_pixels(has: str, limits: Limits) -> str:
    return f"the image has {has}, more than {limits.megapixels:g} megapixels: scale it down"


class Pictures:
    """The images opened last, each under a name that nobody can guess."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> str:
        """Keep an image, forget the one not used for longest where there are too many; returns its name."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._pictures[name] = picture
            while len(self._pictures) > self._kept:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Picture | None:
        """The image of that name; None where it is forgotten or never was."""
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)


# one for all models and images: they share the same cores, memory or GPU
LOCK = threading.Lock()


@dataclass
class Model:
    """A predictor, and which image it has read.

    Attributes:
        name: shown above its image.
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
        """The detector's own boxes [N, 4] in pixels of the image, and their scores [N].

        Raises:
            UserError: the predictor has no detector.
        """
        with LOCK:
            self._read(picture)
            found = self.predictor.detect()
        return np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)

    def predict(self, picture: Picture, query: Query) -> tuple[Prediction, float]:
        """Masks of the query's boxes, and the seconds they took, waiting for others not counted.

        The first ones of an image take the detector's time, too. Clicks are for models that read them.
        """
        points = query.points if self.takes_points else None
        with LOCK:
            start = perf_counter()
            self._read(picture)
            prediction = self.predictor.predict(query.boxes, query.scores, points, query.threshold)
            return prediction, perf_counter() - start

    def _read(self, picture: Picture) -> None:
        if self._picture is not picture:
            self._picture = None  # nothing half-read is taken for the image if this fails
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
    """A PNG as large as the image.

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
