"""Weights of an ONNX file in other files: only beside it, and every byte of them counts."""

from __future__ import annotations

import os

import onnx
import pytest
from faults.bad_detectors import LAYER, external
from helpers import make_onnx

from roiseg.common.errors import UserError
from roiseg.extractor.external_data import external_tensors, model_digest
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess


def elsewhere(path, where):
    """Put valid weights where `where` says; return the location that the model names."""
    outside = path.parents[1] / "outside"
    outside.mkdir()
    if where == "an absolute path":
        return str(outside / "w.bin"), outside / "w.bin"
    if where == "an absolute path beside it":
        return str(path.parent / "w.bin"), path.parent / "w.bin"
    if where == "..":
        return "../outside/w.bin", outside / "w.bin"
    if where == "a folder and ..":
        (path.parent / "inner").mkdir()
        return "inner/../../outside/w.bin", outside / "w.bin"
    if where == "a link to a file":
        (path.parent / "w.bin").symlink_to(outside / "w.bin")
        return "w.bin", outside / "w.bin"
    if where == "a link to a folder":
        (path.parent / "inner").symlink_to(outside)
        return "inner/w.bin", outside / "w.bin"
    os.mkfifo(path.parent / "pipe")
    return "pipe", outside / "w.bin"


@pytest.mark.parametrize(
    "where",
    [
        "an absolute path", "an absolute path beside it", "..", "a folder and ..", "a link to a file",
        "a link to a folder", "a pipe",
    ],
)  # fmt: skip
def test_weights_outside_the_folder_are_refused(tmp_path, where):
    (tmp_path / "nets").mkdir()
    path = make_onnx(tmp_path / "nets" / "detector.onnx")
    location, file = elsewhere(path, where)
    external("w.bin", "w.bin")(path)
    if file != path.parent / "w.bin":
        (path.parent / "w.bin").rename(file) if not (path.parent / "w.bin").is_symlink() else None
    model = onnx.load(str(path), load_external_data=False)
    for tensor in external_tensors(model):
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    for read in (load_onnx, model_digest, lambda p: OnnxExtractor(str(p), [LAYER], Preprocess((64, 64)))):
        with pytest.raises(UserError, match=r"detector\.onnx|weights file"):
            read(path)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_every_byte_of_external_weights_changes_the_identity(tmp_path, place):
    path = make_onnx(tmp_path / "detector.onnx")
    external("parts/w.bin", "parts/w.bin")(path)
    before = model_digest(path)
    assert model_digest(path) == before
    content = bytearray((tmp_path / "parts" / "w.bin").read_bytes())
    content[place] ^= 1
    (tmp_path / "parts" / "w.bin").write_bytes(content)
    assert model_digest(path) != before
