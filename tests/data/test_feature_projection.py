"""The fit of a projection: what is stored, and found again after a kill."""

import os
import signal

import pytest
from child_processes import CHILDREN
from tiny_dataset import make
from tiny_run import one_thread, tiny_extractor

from roiseg.data import feature_projection
from roiseg.data.feature_projection import fitted_projection
from roiseg.extractor.projection import is_moments


def fit(coco_set, onnx_file, folder, kill_at=None):
    """Fit a projection to 4 channels; returns it and the number of images computed for it.

    The state is stored after every image. With `kill_at`, the process is killed at that image.
    """
    extractor, computed = tiny_extractor(onnx_file), []
    extractor.project, tensors = 4, extractor.tensors

    def counted(inputs):
        computed.append(len(inputs))
        if len(computed) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return tensors(inputs)

    extractor.tensors = counted
    feature_projection._EVERY = 1
    with one_thread():
        return fitted_projection(extractor, make(coco_set), folder), sum(computed)


@pytest.fixture(autouse=True)
def _every(monkeypatch):
    monkeypatch.setattr(feature_projection, "_EVERY", 1)


def test_second_fit_is_the_same_and_a_third_is_read(coco_set, onnx_file, tmp_path):
    first, images = fit(coco_set, onnx_file, tmp_path / "a")
    again, _ = fit(coco_set, onnx_file, tmp_path / "b")
    found, computed = fit(coco_set, onnx_file, tmp_path / "a")
    assert images > 3 and computed == 0
    assert first.digest == again.digest == found.digest
    (a,), (b,) = ((tmp_path / name).glob("*.pt") for name in "ab")
    assert a.name == b.name and a.read_bytes() == b.read_bytes()
    assert not list(tmp_path.glob("*/*.npz")) and not list(tmp_path.glob("*/*.lock"))


@pytest.mark.slow  # starts a process
def test_killed_fit_resumes_to_the_same_bytes(coco_set, onnx_file, tmp_path, caplog):
    whole, images = fit(coco_set, onnx_file, tmp_path / "whole")
    child = CHILDREN.Process(target=fit, args=(coco_set, onnx_file, tmp_path / "killed", 3))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (state,) = (tmp_path / "killed").glob("*.npz")
    assert is_moments(state)
    with caplog.at_level("INFO"):
        resumed, computed = fit(coco_set, onnx_file, tmp_path / "killed")
    assert f"resumed after 2 of {images} images" in caplog.text
    assert computed == images - 2 and resumed.digest == whole.digest
    (a,), (b,) = ((tmp_path / name).glob("*.pt") for name in ("whole", "killed"))
    assert a.read_bytes() == b.read_bytes() and not state.exists()
