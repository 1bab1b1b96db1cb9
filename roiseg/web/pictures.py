"""Pictures that a browser sends: decoded within limits, and kept for a while."""

from __future__ import annotations

import io
import secrets
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roiseg.common.errors import UserError
from roiseg.data.images import to_rgb

Picture = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG")
_KEPT = 8


@dataclass(frozen=True)
class Limits:
    """The largest picture that is taken: its file in MB (10^6 bytes), its pixels in millions."""

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
        raise UserError("this is no JPEG or PNG picture: choose one that is") from None
    except Image.DecompressionBombError:
        raise UserError(_too_many_pixels("far too many pixels", limits)) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"the picture is damaged ({error}): choose another one") from None


def _too_many_pixels(has: str, limits: Limits) -> str:
    return f"the picture has {has}, more than {limits.megapixels:g} megapixels: scale it down"


class Pictures:
    """The pictures opened last, each under a name that nobody can guess."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> str:
        """Keep a picture, forget the one not used for longest where there are too many; returns its name."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._pictures[name] = picture
            while len(self._pictures) > self._kept:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Picture | None:
        """The picture of that name; None where it is forgotten or never was."""
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)
