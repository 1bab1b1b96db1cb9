import struct
import zlib

import numpy as np
import pytest
from helpers import user_error
from PIL import Image
from site_driver import encoded

from roiseg.common.errors import UserError
from roiseg.web import models
from roiseg.web.models import ImageStore, Limits, decode

GRADIENT = np.stack(np.meshgrid(np.arange(40), np.arange(30), [7]), axis=-1)[:, :, 0].astype(np.uint8)


def png_header(width, height):
    """A PNG that says it has so many pixels and holds none of them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 1000) + b"IDAT"


def test_a_photo_is_turned_as_the_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    tall = decode(encoded(GRADIENT, exif=exif), Limits())
    assert np.array_equal(tall, np.rot90(GRADIENT, -1))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<svg/>", *(encoded(GRADIENT, k) for k in ("GIF", "BMP", "WEBP"))]
)
def test_other_formats_are_refused(content):
    assert "not a JPEG or PNG" in user_error(decode, content, Limits())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_damage_gets_through_or_ends_in_another_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    whole = encoded(noise, kind)
    for length in range(0, len(whole) - 20, 11):
        with pytest.raises(UserError):
            decode(whole[:length], Limits())


def test_too_many_pixels_are_refused_before_they_are_decoded():
    content = encoded(GRADIENT)  # 1200
    assert decode(content, Limits(megapixels=0.0012)).shape
    assert "40 x 30 pixels" in user_error(decode, content, Limits(megapixels=0.0011))
    for side in (7_000, 60_000):
        assert "pixels" in user_error(decode, png_header(side, side), Limits())


def test_images_are_forgotten_when_together_they_are_too_large(monkeypatch):
    monkeypatch.setattr(models, "PAGE_IMAGES", 2 * GRADIENT.nbytes)
    images = ImageStore()
    names = [images.add(GRADIENT) for _ in range(3)]
    assert [images.get(name) is not None for name in names] == [False, True, True]
    large = images.add(np.concatenate([GRADIENT] * 3))  # alone it is kept
    assert images.get(large) is not None
    assert images.get(names[2]) is None


def test_the_images_not_used_for_longest_are_forgotten():
    images = ImageStore(capacity=2)
    first, second = images.add(GRADIENT), images.add(GRADIENT + 1)
    assert images.get(first) is GRADIENT  # used again
    third = images.add(GRADIENT + 2)
    assert images.get(second) is None
    assert images.get(first) is GRADIENT
    assert np.array_equal(images.get(third), GRADIENT + 2)
    assert len({first, second, third}) == 3
