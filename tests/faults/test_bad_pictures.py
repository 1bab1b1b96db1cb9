"""Each wrong image ends in one line that names it, or is left out and counted; each odd one is read right.

The set they belong to says 80x64 pixels (width x height), 64x80 where a case gives `record`.
"""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from helpers import rectangle, user_error, write_coco
from PIL import Image, TiffImagePlugin
from tiny_dataset import make

from roiseg.data.images import read_image

WIDTH, HEIGHT = 80, 64


class BadPicture(NamedTuple):
    """What becomes of `a.jpg`."""

    write: Callable[[Path], object]  # gets the path of a sound JPEG and puts something else there
    words: str | None = "damaged or not an image"  # of the line that refuses it; None: it is taken
    record: tuple[int, int] = (WIDTH, HEIGHT)  # in its annotation record


def picture(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Dark left of the middle, bright right of it."""
    shown = Image.new("RGB", size, (20, 30, 40))
    shown.paste((240, 230, 220), (size[0] // 2, 0, *size))
    return shown.convert(mode)


def saved(file_format: str, mode: str = "RGB", size=(WIDTH, HEIGHT), **options):
    return lambda path: picture(mode, size).save(path, file_format, **options)


def data(content: bytes):
    return lambda path: path.write_bytes(content)


def cut(share: float, file_format: str = "JPEG", mode: str = "RGB"):
    def write(path):
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(noise).convert(mode).save(path, file_format)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return write


def turned(orientation: int, size=(WIDTH, HEIGHT)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved("JPEG", size=size, exif=exif)


def array(values: np.ndarray, file_format: str):
    return lambda path: Image.fromarray(values).save(path, file_format)


def animated(file_format: str):
    others = [picture().rotate(180), picture().rotate(90)]
    return saved(file_format, save_all=True, append_images=others, duration=50)


def deep_colour(path):
    ok, encoded = cv2.imencode(".png", np.asarray(picture(), np.uint16)[:, :, ::-1] * 257)
    assert ok
    path.write_bytes(encoded.tobytes())


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def wrong_checksum(path):
    picture().save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[29] ^= 255
    path.write_bytes(bytes(content))


def folder(path):
    path.unlink()
    path.mkdir()


def link(target: str):
    return lambda path: (path.unlink(), path.symlink_to(target))


def with_trailer(path):
    picture().save(path, "JPEG")
    path.write_bytes(path.read_bytes() + b"appended" * 100)


def tiff_bomb(path):
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    entries[270] = "x" * 10
    picture().save(path, "TIFF", tiffinfo=entries)
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 2) + content[8:])


GREY = np.asarray(picture("L"))

PICTURES = {
    "empty": BadPicture(data(b"")), "text": BadPicture(data(b"this is no image\n" * 50)),
    "postscript that would run": BadPicture(
        data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 64\n(%pipe%touch owned) (w) file\n%%EOF\n")
    ),
    "photoshop": BadPicture(data(b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 80, 8, 3) + bytes(50))),
    "git lfs pointer": BadPicture(data(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")),
    "folder": BadPicture(folder), "absent": BadPicture(Path.unlink, "a.jpg"),
    "dangling link": BadPicture(link("nowhere.jpg"), "image not found"),
    "link to itself": BadPicture(link("a.jpg"), "a.jpg"), "jpeg cut at 50 %": BadPicture(cut(0.5)),
    "jpeg cut at 95 %": BadPicture(cut(0.95)), "png cut at 50 %": BadPicture(cut(0.5, "PNG")),
    "cmyk cut at 50 %": BadPicture(cut(0.5, "JPEG", "CMYK")),
    "png with a wrong checksum": BadPicture(wrong_checksum),
    "png without pixels": BadPicture(data(png(WIDTH, HEIGHT))),
    "png whose text unpacks to 200 MB": BadPicture(
        data(png(WIDTH, HEIGHT, chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(200_000_000), 9))))
    ),
    "png that claims 60000x60000": BadPicture(data(png(60_000, 60_000, chunk(b"IDAT", b"")))),
    "110 megapixels": BadPicture(data(png(11_000, 10_000)), "11000x10000 pixels, more than 100,000,000"),
    "gif that claims 65535x65535": BadPicture(data(b"GIF89a\xff\xff\xff\xff\0\0\0,")),
    "tiff whose directory is nowhere": BadPicture(tiff_bomb),
    "32-bit float": BadPicture(array(GREY.astype(np.float32) / 255, "TIFF"), "32 bits"),
    "32-bit whole numbers": BadPicture(array(GREY.astype(np.int32) * 1000, "TIFF"), "32 bits"),
    "another size": BadPicture(saved("JPEG", size=(70, 64)), "is 70x64 pixels, its annotation record says 80x64"),
    "width and height exchanged": BadPicture(saved("JPEG", size=(HEIGHT, WIDTH)), "is 64x80 pixels"),
    # a turned image is taken where the record says that its annotations are turned, too
    **{f"exif {n}, annotated upright": BadPicture(turned(n), None, (HEIGHT, WIDTH)) for n in (5, 6, 7, 8)},
    **{f"exif {n}, annotated as stored": BadPicture(turned(n), "rotated by its EXIF") for n in range(2, 9)},
    "exif 6 of a square": BadPicture(turned(6, (64, 64)), "rotated by its EXIF", (64, 64)),
    "exif 6, another size": BadPicture(turned(6, (70, 64)), "is 64x70 pixels"),
}  # fmt: skip
TAKEN = {
    "exif 1": turned(1), "exif 0": turned(0), "broken exif": saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"),
    "cmyk": saved("JPEG", "CMYK", quality=95), "cmyk tiff": saved("TIFF", "CMYK"),
    "16-bit grey": array(GREY.astype(np.uint16) * 257, "PNG"),
    "16-bit grey tiff": array(GREY.astype(np.uint16) * 257, "TIFF"), "16-bit colour": deep_colour,
    "1 bit": saved("PNG", "1"), "grey jpeg": saved("JPEG", "L"), "grey with transparency": saved("PNG", "LA"),
    "colour with transparency": saved("PNG", "RGBA"), "palette": saved("PNG", "P"),
    "palette with transparency": saved("PNG", "P", transparency=b"\0\1\2"),
    "progressive": saved("JPEG", progressive=True), "something after the end": with_trailer,
    "animated gif": animated("GIF"), "animated webp": animated("WEBP"), "animated png": animated("PNG"),
    "tiff of several pages": animated("TIFF"),
    "two images of one camera": saved("MPO", save_all=True, append_images=[picture()]),
    "png called jpg": saved("PNG"), "bmp called jpg": saved("BMP"),
    "webp called jpg": saved("WEBP", lossless=True), "jpeg 2000 called jpg": saved("JPEG2000"),
}  # fmt: skip
PICTURES |= {name: BadPicture(write, None) for name, write in TAKEN.items()}


def set_with(folder, case):
    """A set of the bad image and a good one."""
    sizes = {"a.jpg": (64, 80), "b.jpg": (64, 80)}
    instances = [{"file": name, "segmentation": rectangle(10, 10, 40, 50)} for name in sizes]
    files = write_coco(folder, sizes, instances)
    content = files.content()
    content["images"][0]["width"], content["images"][0]["height"] = case.record
    files.json.write_text(json.dumps(content))
    case.write(files.images / "a.jpg")
    return files


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = PICTURES[name]
    files = set_with(tmp_path / "set", case)
    before = sorted(tmp_path.rglob("*"))
    taken = []
    line = user_error(lambda: taken.append(make(files)[0]))
    skipping = make(files, skip_damaged=True)
    if case.words is None:
        assert line == "" and not taken[0].skipped
        image = read_image(files.images / "a.jpg", case.record[::-1])
        assert image.shape == (*case.record[::-1], 3)
        if "exif" not in name:
            np.testing.assert_allclose(image[:, 5:35].mean(), 30, atol=31)  # 1 bit: 0
            np.testing.assert_allclose(image[:, 45:75].mean(), 230, atol=26)
    else:
        assert case.words in line and "a.jpg" in line and "\n" not in line
        assert "a.jpg" in skipping[0].skipped
    assert len(skipping[1].rois) == 1
    assert sorted(tmp_path.rglob("*")) == before
