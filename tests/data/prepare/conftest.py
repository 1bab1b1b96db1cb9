"""A small COCO in a folder and on the web."""

import pytest
from small_coco import served, write_coco

from roiseg.data.prepare.persons import Layout


@pytest.fixture
def source(tmp_path):
    return write_coco(tmp_path / "coco")


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "data", (8, 3))


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served() as state:
        yield state
