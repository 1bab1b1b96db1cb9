"""The models and images behind the page; the application serializes the calls."""

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
from pydantic import PositiveFloat

from roiseg.common.errors import UserError
from roiseg.common.limits import PAGE_IMAGES
from roiseg.data.images import to_rgb
from roiseg.inference.prediction import Prediction
from roiseg.inference.predictor import Predictor
from roiseg.web.requests import Query

RgbImage = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG")
_CAPACITY = 8


@dataclass(frozen=True)
class Limits:
    """The largest image that is accepted: file size in MB (10^6 bytes) and megapixels."""

    megabytes: PositiveFloat = 20
    megapixels: PositiveFloat = 40

    @property
    def bytes(self) -> int:
        """Return the size of the largest file, in bytes."""
        return round(self.megabytes * 1e6)


def decode(content: bytes, limits: Limits) -> RgbImage:
    """Decode a JPEG or PNG file to RGB uint8 [H, W, 3], turned as its EXIF orientation says.

    Raises:
        UserError: another format, damaged, or too many pixels (checked before decoding).
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            width, height = file.size
            if width * height > limits.megapixels * 1e6:
                raise UserError(_too_many_pixels(f"{width} x {height} pixels", limits))
            return to_rgb(file)
    except Image.UnidentifiedImageError:
        raise UserError("this is not a JPEG or PNG image: choose one") from None
    except Image.DecompressionBombError:
        raise UserError(_too_many_pixels("far too many pixels", limits)) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"the image is damaged ({error}): choose another one") from None


def _too_many_pixels(has: str, limits: Limits) -> str:
    return f"the image has {has}, more than {limits.megapixels:g} megapixels: scale it down"


class ImageStore:
    """The most recently used images, under random names: few, and at most `PAGE_IMAGES` bytes."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._images: OrderedDict[str, RgbImage] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, image: RgbImage) -> str:
        """Store an image, drop the least recently used one if there are too many, and return its name."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._images[name] = image
            while len(self._images) > self._capacity or self._too_large():
                self._images.popitem(last=False)
        return name

    def _too_large(self) -> bool:
        return len(self._images) > 1 and sum(each.nbytes for each in self._images.values()) > PAGE_IMAGES

    def get(self, name: str) -> RgbImage | None:
        """Return the image of that name; None if there is none."""
        with self._lock:
            if name in self._images:
                self._images.move_to_end(name)
            return self._images.get(name)


@dataclass
class Model:
    """A predictor and the image it is set to.

    Attributes:
        name: shown above its image.
        predictor: computes the masks.
        summary: shown beside the name.
    """

    name: str
    predictor: Predictor
    summary: str = ""
    _image: RgbImage | None = field(default=None, repr=False)

    @property
    def takes_points(self) -> bool:
        """Tell whether the model reads clicks."""
        return "points" in self.predictor.model.prompts

    def detect(self, image: RgbImage) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the detector's boxes [N, 4] in pixels of the image, and their scores [N].

        Raises:
            UserError: the predictor has no detector.
        """
        self._read(image)
        found = self.predictor.detect()
        return np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)

    def predict(self, image: RgbImage, query: Query) -> tuple[Prediction, float]:
        """Return the masks of the query's boxes, and the seconds they took.

        The first masks of an image include the detector. Clicks are ignored by models that do not read them.
        """
        points = query.points if self.takes_points else None
        start = perf_counter()
        self._read(image)
        prediction = self.predictor.predict(query.boxes, query.scores, points, query.threshold)
        return prediction, perf_counter() - start

    def _read(self, image: RgbImage) -> None:
        if self._image is not image:
            self._image = None  # if set_image fails, the next call sets the image again
            self.predictor.set_image(image)
            self._image = image


def to_json(prediction: Prediction, image_id: int) -> dict[str, Any]:
    """Convert a prediction to JSON for the page.

    Returns:
        `size`, `windows`; `targets` and `non_targets` (or None), one grey PNG per box in base64, 0..255 for
        0..1, of the box's window; `results`: `Prediction.to_coco`.
    """
    others = prediction.non_targets
    return {
        "size": list(prediction.size),
        "windows": [[int(value) for value in window] for window in prediction.windows],
        "targets": _encode(prediction.probabilities),
        "non_targets": None if others is None else _encode(others),
        "results": prediction.to_coco(image_id),
    }


def mask_png(prediction: Prediction, instance: int | None) -> bytes:
    """Return a PNG of the image's size.

    Args:
        prediction: the masks.
        instance: index of one mask, 0 or 255 (8 bit); None: label map of all (16 bit).
    """
    if instance is None:
        return png(prediction.label_map())
    return png(prediction.mask(instance).astype(np.uint8) * np.uint8(255))


def _encode(probabilities: Sequence[NDArray[np.float32]]) -> list[str]:
    return [
        base64.b64encode(png(np.rint(values * 255).astype(np.uint8))).decode("ascii")
        for values in probabilities
    ]


def png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode grey values [H, W], uint8 or uint16, as PNG."""
    done, encoded = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return encoded.tobytes()
