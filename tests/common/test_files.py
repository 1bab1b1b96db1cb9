import os

import pytest

from roiseg.common import files
from roiseg.common.files import missing_files


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "below/a.jpg", "below/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(("names", "missing"), [
    ([], []),
    (["a.jpg", "below/a.jpg", "below/deep/c.jpg", "./a.jpg", "below//a.jpg", "below/./a.jpg"], []),
    (["c.jpg", "a.jpg", "below/b.jpg", "none/a.jpg", "a.jpg/a.jpg"],
     ["c.jpg", "below/b.jpg", "none/a.jpg", "a.jpg/a.jpg"]),
])  # fmt: skip
def test_missing_files_are_told_in_their_order(folder, names, missing):
    assert missing_files(folder, names) == missing


def test_each_folder_is_listed_once_and_present_files_are_not_asked_for(folder, monkeypatch):
    listed, listdir = [], os.listdir
    monkeypatch.setattr(files.os, "listdir", lambda path: listed.append(path) or listdir(path))
    monkeypatch.setattr(files.Path, "is_file", lambda path: pytest.fail("asked"))
    assert missing_files(folder, ["a.jpg", "below/a.jpg"] * 50) == []
    assert listed == [folder, folder / "below"]
