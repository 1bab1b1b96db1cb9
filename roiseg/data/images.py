"""Reading image files, with the ways they can be wrong in words."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from roiseg.common.errors import UserError
from roiseg.common.files import content_digest, open_regular
from roiseg.common.limits import MAX_PIXELS

Image.init()
# no format whose reader starts another program, as Pillow's of PostScript does
_FORMATS: list[str] = [
    name
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
    if name in Image.OPEN
]
# MPO: several JPEGs in one; PFM: numbers of unknown range
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*_FORMATS, "MPO")
) - {".pfm"}


class DamagedImage(UserError):
    """An image file that cannot be used, while others can: what `data.on_error` is about."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image file, told by its content, to RGB uint8 [H, W, 3].

    Of an animation the first image is taken; transparency is left out. More than 8 bits a channel are
    scaled down to 8, see `to_rgb`.

    An image that its EXIF orientation turns is turned. Programs differ in whether they annotate such a
    image before or after that, so where there is an annotation record its size must say that it was after.

    Args:
        path: the file.
        size: (H, W) the annotations say it has; None takes any.

    Raises:
        DamagedImage: absent, not an image, damaged, of another size, turned by EXIF while its record does not
            say that the annotations are, too, or above 100 megapixels (refused before it is decoded).
    """
    # Pillow, because OpenCV fills what is missing of a truncated JPEG with grey and says nothing
    try:
        with _no_warnings(), open_regular(path) as stream, Image.open(stream, formats=_FORMATS) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise DamagedImage(
                    f"image {path} has {width}x{height} pixels, more than {MAX_PIXELS:,}: scale it down"
                )
            image = to_rgb(file)
            turned = _is_turned(file)
    except FileNotFoundError:
        raise DamagedImage(f"image not found: {path}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or error
        raise DamagedImage(
            f"image {path} is damaged or no image ({why}): replace it or take it out of the set"
        ) from None
    if size is not None and turned and size == (height, width):
        raise turned_otherwise(path, size)
    if size is not None and image.shape[:2] != size:
        raise DamagedImage(
            f"image {path} is {image.shape[1]}x{image.shape[0]} pixels, its annotation record says "
            f"{size[1]}x{size[0]}: the file and the json do not belong together"
        )
    return image


_ORIENTATION = 0x0112  # EXIF tag


def _is_turned(file: Image.Image) -> bool:
    return file.getexif().get(_ORIENTATION, 1) in range(2, 9)


def turned_from(path: Path) -> tuple[int, int] | None:
    """(H, W) as stored of an image file that its EXIF orientation turns; None of any other."""
    try:
        with _no_warnings(), Image.open(path, formats=_FORMATS) as file:
            return (file.height, file.width) if _is_turned(file) else None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return None  # `read_image` tells why


def turned_otherwise(path: Path, size: tuple[int, int]) -> DamagedImage:
    """The error of an image that is turned while its record, of `size` (H, W), may be of it as stored."""
    return DamagedImage(
        f"image {path} is turned by its EXIF orientation, and its annotation record ({size[1]}x{size[0]}) "
        "does not say that the annotations are, too: save it as it was annotated, without that tag"
    )


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without Pillow's warnings: of oddities that do no harm, and of sizes that are refused anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_rgb(file: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] of an opened image file, turned as its EXIF orientation says, without transparency.

    Of 16 bits a channel the upper 8; the upper 8 of 12 where no value needs more, as cameras save 12 in 16.

    Raises:
        ValueError: it has 32 bits a pixel.
    """
    if file.mode == "F" or (file.mode == "I" and file.format != "PPM"):
        raise ValueError("32 bits a pixel, of unknown range")
    image: Image.Image = file
    stream, kept = file.fp, str(file.tile)  # before anything is read
    orientation = file.getexif().get(_ORIENTATION, 1)
    if file.mode.startswith("I"):  # Pillow would cut its values off at 255
        image = Image.fromarray(_upper_bits(np.asarray(file)))
    elif stream is not None and any(word in kept for word in (";16", " 65535")):
        file.load()  # tells damage, and keeps the upper 8 bits alone
        stream.seek(0)
        deep = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), _DEEP)
        image = file if deep is None else Image.fromarray(_upper_bits(deep[..., ::-1]))
    if image is not file:
        image.getexif()[_ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


_DEEP = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def _upper_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    return (values >> (4 if values.max(initial=0) < 1 << 12 else 8)).astype(np.uint8)


def image_digest(path: Path) -> bytes:
    """`content_digest` of an image file.

    Raises:
        DamagedImage: there is none, or it cannot be read.
    """
    try:
        return content_digest(path)
    except FileNotFoundError:
        raise DamagedImage(f"image not found: {path}") from None
    except OSError as error:
        raise DamagedImage(f"image {path} cannot be read ({error.strerror}): check its permissions") from None
