"""Reading image files, with the ways they can be wrong in words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from roiseg.common.errors import UserError

MAX_PIXELS = 100_000_000


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image file to RGB uint8 [H, W, 3].

    Args:
        path: the file.
        size: (H, W) the annotations say it has; None takes any.

    Raises:
        UserError: absent, not an image, damaged, of another size, or above 100 megapixels (refused
            before it is decoded).
    """
    # Pillow, because OpenCV fills what is missing of a truncated JPEG with grey and says nothing
    try:
        with Image.open(path) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"image {path} has {width}x{height} pixels, more than {MAX_PIXELS:,}: scale it down"
                )
            image = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"image not found: {path}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {path} is damaged or no image ({error}): replace it or take it out of the set"
        ) from None
    if size is not None and image.shape[:2] != size:
        raise UserError(
            f"image {path} is {image.shape[1]}x{image.shape[0]} pixels, its annotation record says "
            f"{size[1]}x{size[0]}: the file and the json do not belong together"
        )
    return image


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change (ns) of a file: other where its content is another.

    Raises:
        UserError: there is none.
    """
    try:
        file = path.stat()
    except OSError:
        raise UserError(f"image not found: {path}") from None
    return file.st_size, file.st_mtime_ns
