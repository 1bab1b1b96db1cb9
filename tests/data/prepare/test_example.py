"""The example: photographs that are downloaded one by one, with annotations that ship with roiseg."""

import hashlib
import json
import subprocess
import sys

import pytest
from helpers import user_error
from small_coco import served

from roiseg.data.prepare import build
from roiseg.data.prepare.build import prepare_example


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A server with two images, and a description of them in place of the real one."""
    images = {"train2017/1.jpg": b"first", "val2017/2.jpg": b"second"}
    files = tmp_path / "files"
    files.mkdir()
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in images.items())
    (files / "sha256.txt").write_text("".join(lines))
    for split in ("train2017", "val2017"):
        content = {"images": [{"file_name": "1.jpg"}], "annotations": [{}, {}]}
        (files / f"instances_{split}_person_only_no_crowd.json").write_text(json.dumps(content))
    monkeypatch.setattr(build, "_FILES", files)
    with served() as server:
        server.files = {"/train2017/1.jpg": b"first", "/train2017/2.jpg": b"second"}
        yield server


def test_images_of_both_splits_come_from_train2017_and_are_fetched_once(web, tmp_path):
    made = prepare_example(tmp_path / "data", web.url).made
    root = tmp_path / "data/coco128_person"
    assert (root / "images/train2017/1.jpg").read_bytes() == b"first"
    assert (root / "images/val2017/2.jpg").read_bytes() == b"second"
    assert len(made) == 4
    web.requests.clear()
    again = prepare_example(tmp_path / "data", web.url)
    assert again.made == [] and web.requests == []
    assert [(report.images, report.persons) for report in again.reports] == [(1, 2), (1, 2)]


def test_image_with_another_content_is_refused(web, tmp_path):
    web.files["/train2017/2.jpg"] = b"something else"
    message = user_error(prepare_example, tmp_path / "data", web.url)
    folder = tmp_path / "data/coco128_person/images/val2017"
    assert "2.jpg has sha256" in message and "md5" not in message
    assert f"set base_url to a mirror, or copy 2.jpg of COCO's train2017 into {folder}" in message
    assert not (folder / "2.jpg").exists()
    assert not (tmp_path / "data/coco128_person/annotations").exists()


@pytest.mark.realdata
def test_command_makes_the_data_set_of_the_experiments(realdata, tmp_path):
    real = realdata / "coco128_person"
    with served() as server:
        server.files = {f"/train2017/{path.name}": path.read_bytes() for path in real.glob("images/*/*.jpg")}
        command = [sys.executable, "-m", "roiseg.prepare", "example=true", f"base_url={server.url}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "data/coco128_person"
    names = [path.relative_to(real) for path in real.rglob("*.j*")]
    assert len(names) == 63
    assert all((made / name).read_bytes() == (real / name).read_bytes() for name in names)
