"""Read image files, and explain why one cannot be used."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from roiseg.common.errors import UserError
from roiseg.common.files import content_digest, open_regular
from roiseg.common.limits import MAX_PIXELS

Image.init()
# no format whose reader starts another program, as Pillow's PostScript reader does
_FORMATS: list[str] = [
    name
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
    if name in Image.OPEN
]
# MPO is several JPEGs in one file; PFM has values of unknown range
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*_FORMATS, "MPO")
) - {".pfm"}


class DamagedImage(UserError):
    """An image file cannot be used, while others can (see `data.on_error`)."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image file, whose format is detected from its content, to RGB uint8 [H, W, 3].

    The first frame of an animation is used; transparency is dropped. More than 8 bits per channel are scaled
    down to 8, see `to_rgb`.

    The EXIF orientation is applied. Programs differ in whether they annotate an image before or after that,
    so the size in the annotation record, if any, must be that of the rotated image.

    Args:
        size: (H, W) according to the annotations; None accepts any.

    Raises:
        DamagedImage: the file is missing, not an image, damaged, of another size, rotated by EXIF unlike its
            record, or above 100 megapixels (rejected before decoding).
    """
    # not OpenCV, which silently fills the rest of a truncated JPEG with grey
    with (
        _errors_named(path), _no_warnings(), open_regular(path) as stream,
        Image.open(stream, formats=_FORMATS) as file,
    ):  # fmt: skip
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise DamagedImage(
                f"image {path} has {width}x{height} pixels, more than {MAX_PIXELS:,}: scale it down"
            )
        image = to_rgb(file)
        rotated = _is_rotated(file)
    if size is not None and rotated and size == (height, width):
        raise rotation_mismatch(path, size)
    if size is not None and image.shape[:2] != size:
        raise DamagedImage(
            f"image {path} is {image.shape[1]}x{image.shape[0]} pixels, its annotation record says "
            f"{size[1]}x{size[0]}: the file and the json do not belong together"
        )
    return image


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn errors of reading an image file into a DamagedImage that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DamagedImage(f"image not found: {path}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        why = f" ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, UnidentifiedImageError):  # names a file descriptor
            why = ""
        raise DamagedImage(
            f"image {path} is damaged or not an image{why}: replace it or take it out of the set"
        ) from None


_ORIENTATION = 0x0112  # EXIF tag


def _is_rotated(file: Image.Image) -> bool:
    return file.getexif().get(_ORIENTATION, 1) in range(2, 9)


def exif_rotated_size(path: Path) -> tuple[int, int] | None:
    """Return the stored (H, W) of an image file that its EXIF orientation rotates; None for any other."""
    try:
        with _no_warnings(), Image.open(path, formats=_FORMATS) as file:
            return (file.height, file.width) if _is_rotated(file) else None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return None  # `read_image` explains why


def rotation_mismatch(path: Path, size: tuple[int, int]) -> DamagedImage:
    """Return the error for a rotated image whose record, of `size` (H, W), may describe it as stored."""
    return DamagedImage(
        f"image {path} is rotated by its EXIF orientation, and its annotation record ({size[1]}x{size[0]}) "
        "does not say that the annotations are, too: save it as it was annotated, without that tag"
    )


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about harmless oddities, and about sizes that are rejected anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_rgb(file: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """Return an opened image file as RGB uint8 [H, W, 3], oriented by EXIF, without transparency.

    Of 16 bits per channel the upper 8 are kept; if all values fit into 12 bits, as cameras save them, the
    upper 8 of these.

    Raises:
        ValueError: it has 32 bits per pixel.
    """
    if file.mode == "F" or (file.mode == "I" and file.format != "PPM"):
        raise ValueError("32 bits per pixel, of unknown range")
    image: Image.Image = file
    stream, tiles = file.fp, str(file.tile)  # before anything is read
    orientation = file.getexif().get(_ORIENTATION, 1)
    if file.mode.startswith("I"):  # Pillow would clip its values at 255
        image = Image.fromarray(_upper_bits(np.asarray(file)))
    elif stream is not None and any(word in tiles for word in (";16", " 65535")):
        file.load()  # detects damage, but keeps only the upper 8 bits
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
    """Return the `content_digest` of an image file.

    Raises:
        DamagedImage: the file is missing or cannot be read.
    """
    with _errors_named(path):
        digest = content_digest(path)
    return digest


def have_copies(paths: Sequence[Path], others: Sequence[Path]) -> NDArray[np.bool_]:
    """Tell which files, byte for byte, are also among others under any name; missing files are not.

    Only files of equal size are read.
    """
    by_size = dict[int, list[Path]]()
    for other in filter(Path.is_file, others):
        by_size.setdefault(other.stat().st_size, []).append(other)

    def copied(path: Path) -> bool:
        alike = by_size.get(path.stat().st_size, []) if path.is_file() else []
        return any(path.samefile(other) or image_digest(path) == image_digest(other) for other in alike)

    return np.array([copied(path) for path in paths], bool)
