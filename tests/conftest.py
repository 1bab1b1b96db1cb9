"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads make tiny tensors many times slower

import pytest
from helpers import make_onnx, tiny_coco
from hypothesis import settings

import roiseg  # noqa: F401  before ONNX Runtime, whose telemetry it turns off

# the same examples every time, and none is failed for being slow on a busy machine
settings.register_profile("roiseg", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("roiseg")

pytest_plugins = ["helpers.commands"]

STALE_MARKS = pytest.StashKey[set[tuple[str, str]]]()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config, items):
    """Mark tests on real data as slow, and all that `slow_except(word)` does not keep: the first with the word."""
    marked, kept = set(), {}
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.slow)
        elif mark := item.get_closest_marker("slow_except"):
            word = "".join(mark.args)
            marked.add(group := (item.nodeid.split("::")[0], word))
            test = item.nodeid.split("[")[0]
            if word not in item.name or kept.setdefault(test, (group, item))[1] is not item:
                item.add_marker(pytest.mark.slow)
    config.stash[STALE_MARKS] = marked - {group for group, _ in kept.values()}


@pytest.fixture
def stale_marks(pytestconfig) -> set[tuple[str, str]]:
    """(file, word) of marks `slow_except` that keep no test fast."""
    return pytestconfig.stash[STALE_MARKS]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after all other reports
def pytest_terminal_summary(terminalreporter, config):
    """Say which tests were left out; skipped ones are listed by `-ra`."""
    yield
    others = {"not slow": "slow ones, `make test-all` runs them", "slow": "fast ones, `make test` runs them"}
    if left := others.get(config.option.markexpr):
        terminalreporter.write_line(f"tests were left out: {left}")


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Restore SIGINT, which shells ignore in background jobs: the processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was():
    """Fail a test that disables logging: later tests in the same process would see no messages."""
    before = logging.root.manager.disable
    yield
    assert logging.root.manager.disable == before


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder with real COCO images and a real detector; only for tests marked `realdata`."""
    folder = os.environ.get("ROISEG_REALDATA")
    if not folder:
        pytest.skip("ROISEG_REALDATA is not set: it names a folder with coco128_person and yolox_nano.onnx")
    return Path(folder)


@pytest.fixture(scope="session")
def coco_set(tmp_path_factory):
    """The tiny set (`helpers.tiny_coco`), shared and read-only: `.json`, `.images`, `.content()`."""
    return tiny_coco(tmp_path_factory.mktemp("tiny_coco"))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory) -> Path:
    """A tiny detector with input [1, 3, 64, 64] (`helpers.make_onnx`), shared and read-only."""
    return make_onnx(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def dynamic_onnx_file(tmp_path_factory) -> Path:
    """The same detector with a free batch, [N, 3, 64, 64]."""
    return make_onnx(tmp_path_factory.mktemp("onnx") / "dynamic.onnx", batch="N")
