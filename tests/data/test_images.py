"""Images: missing, damaged, too large, of any kind."""

import os
import shutil
import socket

import cv2
import numpy as np
import pytest
from helpers import user_error
from tiny_dataset import make

from roiseg.common.errors import UserError
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
