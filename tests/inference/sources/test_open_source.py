"""What a user writes as `source`, and the images that are meant."""

import numpy as np
import pytest
from PIL import Image

from roiseg.common.errors import UserError
from roiseg.inference.sources.image_files import open_source
from roiseg.inference.sources.source import image_ids


def save(path, size=(6, 4), value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    names = ["b.jpg", "a.PNG", "deep/c.bmp", "deep/er/d.webp", ".hidden.jpg", ".git/e.jpg"]
    for number, name in enumerate(names):
        save(tmp_path / name, value=number)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def keys(source):
    return [frame.key for frame in source]


def test_a_folder_is_read_with_its_sub_folders_and_without_what_is_hidden(folder):
    source = open_source(str(folder))
    assert keys(source) == ["a", "b", "deep/c", "deep/er/d"]
    assert list(source.names()) == ["a.PNG", "b.jpg", "deep/c.bmp", "deep/er/d.webp"]
    assert [frame.name for frame in source] == list(source.names())
    assert [frame.number for frame in source] == [0, 1, 2, 3]
    assert len(source) == 4 and source.video is None


def test_what_a_folder_holds_besides_images_is_counted(folder, caplog):
    for suffix in (".jfif", ".jpe"):
        save(folder / f"more{suffix}", format="JPEG")
    save(folder / "more.mpo")
    (folder / "deep/clip.mp4").touch()
    assert len(open_source(str(folder))) == 7
    assert "2 files ignored because of their suffix: 1 .txt, 1 .mp4" in caplog.text


def test_keys_are_relative_to_what_all_have_in_common(folder):
    assert keys(open_source(f"{folder}/*")) == ["a", "b"]
    assert keys(open_source(f"{folder}/**/*.[bw]*")) == ["deep/c", "deep/er/d"]
    assert keys(open_source(f"{folder}/deep/*.bmp")) == ["c"]
    given = [str(folder / "deep/c.bmp"), str(folder / "b.jpg"), str(folder / "deep")]
    assert keys(open_source(given)) == ["b", "deep/c", "deep/er/d"]


def test_an_image_is_read_as_rgb_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    path = save(tmp_path / "x.png", size=(6, 4), value=200, exif=exif)
    (frame,) = open_source(str(path))
    image = frame.read()
    assert image.shape == (6, 4, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == [200, 0, 255]
    assert (frame.key, frame.name, frame.path) == ("x", "x.png", path)


def test_images_that_differ_in_suffix_only_do_not_share_a_key(tmp_path):
    for name in ("x.png", "x.jpg", "y[1].jpg"):
        save(tmp_path / name)
    assert keys(open_source(str(tmp_path))) == ["x.jpg", "x.png", "y[1].jpg"]
    assert keys(open_source(str(tmp_path / "y[1].jpg"))) == ["y[1]"]  # a name that looks like a glob


@pytest.mark.parametrize(("given", "words"), [
    ("{}/none.jpg", ["none.jpg", "not found"]), ("{}/empty", ["empty", "no image in this folder"]),
    ("{}/*.gif", ["*.gif", "matches nothing"]),
    ("{}/*.txt", ["*.txt", "1 files, none of them an image"]),
    ("{}/notes.txt", ["notes.txt", "neither an image nor a video", "mp4"]),
    ([], ["source", "give images"]),
])  # fmt: skip
def test_mistakes(folder, given, words, capfd):
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        open_source([] if given == [] else given.format(folder))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "x/7.jpg"], [139, 7]),
        (["7.jpg", "x/007.jpg"], [1, 2]),  # the same number twice
        (["7.jpg", "a.jpg"], [1, 2]),
    ],
)
def test_numbers_of_pictures(tmp_path, names, ids):
    for name in names:
        save(tmp_path / name)
    source = open_source(str(tmp_path))
    number = image_ids(source)
    assert [number(frame) for frame in source] == ids
