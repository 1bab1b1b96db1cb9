"""Images: missing, damaged, too large, of any kind."""

from __future__ import annotations

import os
import shutil
import socket

import cv2
import numpy as np
import pytest
from helpers import user_error
from PIL import Image
from tiny_dataset import make

from roiseg.common.errors import UserError
from roiseg.common.limits import MAX_PIXELS
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.images import image_digest, read_image
from roiseg.inference.box_files import open_boxes
from roiseg.inference.checkpoint import read_checkpoint
from roiseg.inference.sources.image_files import open_source


def test_missing_images_are_counted_and_the_first_is_named(broken_set):
    (broken_set.images / "empty.jpg").unlink()  # is no item
    dataset = make(broken_set)
    (broken_set.images / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"image not found: .*b\.jpg"):
        dataset[1]
    (broken_set.images / "d.jpg").unlink()
    with pytest.raises(UserError, match=r"2 of 5 images .* the first is b\.jpg"):
        make(broken_set)
    shutil.rmtree(broken_set.images)
    with pytest.raises(UserError, match=r"image folder not found: .*data\.train_images"):
        make(broken_set)


@pytest.fixture
def written(tmp_path):
    """Write an image of noise; return its path and bytes."""

    def write(suffix):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))
        return path, path.read_bytes()

    return write


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_image_is_named_not_filled_with_grey(written, suffix, share):
    path, whole = written(suffix)
    assert read_image(path).shape == (40, 50, 3)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_damaged_bytes_give_an_image_or_a_named_error(written, suffix):
    path, whole = written(suffix)
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(min(len(data), 200))] = rng.integers(256)
        path.write_bytes(bytes(data))
        message = user_error(read_image, path)
        assert not message or str(path) in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 5_001)).save(path)
    assert MAX_PIXELS < 20_000 * 5_001
    with pytest.raises(UserError, match="20000x5001"):
        read_image(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_images_of_any_colour_mode_become_rgb(tmp_path, mode):
    picture = Image.new("RGB", (20, 10), (200, 30, 60))
    picture.paste((255, 255, 255), (10, 0, 20, 10))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.convert(mode).save(path)
    image = read_image(path, (10, 20))
    assert image.shape == (10, 20, 3)
    assert image.dtype == np.uint8
    assert (image[:, 15] > 250).all()
    if mode in ("RGB", "RGBA", "P", "CMYK"):
        np.testing.assert_allclose(image[5, 5], [200, 30, 60], atol=0 if mode == "RGB" else 30)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    picture = Image.new("RGB", (30, 20))
    picture.paste((255, 255, 255), (0, 0, 10, 20))  # the left third
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg", (30, 20))
    assert (image[:8] > 200).all()  # left has become the top
    assert (image[12:] < 50).all()


@pytest.mark.realdata
def test_real_images_decode_as_opencv_decodes_them(realdata):
    for path in sorted((realdata / "coco128_person/images/val2017").glob("*.jpg"))[:5]:
        theirs = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.abs(read_image(path).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(
    ("suffix", "colors"), [(".png", 1), (".png", 3), (".tiff", 1), (".tiff", 3), (".ppm", 3), (".pgm", 1)]
)
def test_of_more_than_8_bits_the_upper_8_are_kept(tmp_path, bits, suffix, colors):
    deep = np.linspace(0, 2**bits - 1, 40 * 30 * colors).reshape(40, 30, colors).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep[..., ::-1])
    expected = np.broadcast_to(deep >> (bits - 8), (40, 30, 3))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), expected)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_may_never_end_is_refused_unread(tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening, pytest.MonkeyPatch.context() as patch:
        if kind == "socket":
            patch.chdir(tmp_path)
            listening.bind("a.jpg")  # a socket's path has 100 letters at most
        for read in (read_image, image_digest, load_annotations, read_checkpoint, open_boxes, open_source):
            assert "a.jpg" in user_error(read, path if read is not open_source else str(path))
