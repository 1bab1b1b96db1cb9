"""Weights of an ONNX file in other files: only beside it, and every byte of them counts."""

import os

import pytest
from faults.bad_detectors import LAYER, external
from helpers import make_onnx

from roiseg.common.errors import UserError
from roiseg.extractor.graph import load_onnx, model_digest
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess

LOCATIONS = {
    "an absolute path": "{folder}/outside/w.bin", "an absolute path beside it": "{folder}/nets/w.bin",
    "..": "../outside/w.bin", "a folder and ..": "inner/../../outside/w.bin", "a link to a file": "link.bin",
    "a link to a folder": "link/w.bin", "a pipe": "pipe",
}  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    nets, outside = tmp_path / "nets", tmp_path / "outside"
    (nets / "inner").mkdir(parents=True)
    path, location = make_onnx(nets / "detector.onnx"), location.format(folder=tmp_path)
    external(location, "w.bin" if "nets" in location else "../outside/w.bin")(path)
    (nets / "link.bin").symlink_to(outside / "w.bin")
    (nets / "link").symlink_to(outside)
    os.mkfifo(nets / "pipe")
    for read in (load_onnx, model_digest, lambda p: OnnxExtractor(str(p), [LAYER], Preprocess((64, 64)))):
        with pytest.raises(UserError, match=r"detector\.onnx|weights file"):
            read(path)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_every_byte_of_external_weights_changes_the_identity(tmp_path, place):
    path = make_onnx(tmp_path / "detector.onnx")
    external("parts/w.bin", "parts/w.bin")(path)
    before = model_digest(path)
    assert model_digest(path) == before
    assert OnnxExtractor(str(path), [LAYER], Preprocess((64, 64)), threads=1).digest == before
    content = bytearray((tmp_path / "parts" / "w.bin").read_bytes())
    content[place] ^= 1
    (tmp_path / "parts" / "w.bin").write_bytes(content)
    assert model_digest(path) != before
