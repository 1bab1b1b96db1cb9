"""Reading image files, with the ways they can be wrong in words."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from roiseg.common.errors import UserError
from roiseg.common.files import content_digest

MAX_PIXELS = 100_000_000
Image.init()
# no format whose reader starts another program, as Pillow's of PostScript does
_FORMATS: list[str] = [
    name
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
    if name in Image.OPEN
]


class DamagedImage(UserError):
    """An image file that cannot be used, while others can: what `data.on_error` is about."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image file, told by its content, to RGB uint8 [H, W, 3].

    Of an animation the first picture is taken; of 16 bits a channel the upper 8; transparency is left out.

    A picture that its EXIF orientation turns is turned. Programs differ in whether they annotate such a
    picture before or after that, so where there is an annotation record its size must say that it was after.

    Args:
        path: the file.
        size: (H, W) the annotations say it has; None takes any.

    Raises:
        DamagedImage: absent, not an image, damaged, of another size, turned by EXIF while its record does not
            say that the annotations are, too, or above 100 megapixels (refused before it is decoded).
    """
    # Pillow, because OpenCV fills what is missing of a truncated JPEG with grey and says nothing
    try:
        with _no_warnings(), Image.open(path, formats=_FORMATS) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise DamagedImage(
                    f"image {path} has {width}x{height} pixels, more than {MAX_PIXELS:,}: scale it down"
                )
            turned = file.getexif().get(_ORIENTATION, 1) in range(2, 9)
            image = to_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise DamagedImage(f"image not found: {path}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DamagedImage(
            f"image {path} is damaged or no image ({error}): replace it or take it out of the set"
        ) from None
    if size is not None and turned and size == (height, width):
        raise DamagedImage(
            f"image {path} is turned by its EXIF orientation, and its annotation record ({width}x{height}) "
            "does not say that the annotations are, too: save it as it was annotated, without that tag"
        )
    if size is not None and image.shape[:2] != size:
        raise DamagedImage(
            f"image {path} is {image.shape[1]}x{image.shape[0]} pixels, its annotation record says "
            f"{size[1]}x{size[0]}: the file and the json do not belong together"
        )
    return image


_ORIENTATION = 0x0112  # EXIF tag


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without Pillow's warnings: of oddities that do no harm, and of sizes that are refused anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_rgb(file: Image.Image) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] of any picture; of 16 bits a channel the upper 8, without transparency.

    Raises:
        ValueError: it has 32 bits a pixel.
    """
    if file.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, of unknown range")
    if file.mode.startswith("I;16"):  # Pillow would cut its values off at 255
        file = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))
    return np.array(file.convert("RGB"))


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
