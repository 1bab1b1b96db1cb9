"""Each wrong checkpoint ends in one line; nothing in it is run."""

import shutil

import pytest
import torch
from faults.bad_checkpoints import CHECKPOINTS, FILE, RESUMED
from helpers import user_error
from tiny_run import fit, tiny_config, tiny_extractor

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.common.errors import UserError
from roiseg.config.entry import user_message
from roiseg.inference.checkpoint import checkpoint_metadata, load_model
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.training.resume import check_resumable

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def checkpoint(coco_set, onnx_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    fit(coco_set, onnx_file, folder.parent, [EpochCheckpoint(folder, [64, 64])], max_epochs=1)
    return newest_checkpoint(folder)


@pytest.fixture
def description(onnx_file):
    return checkpoint_metadata(tiny_config(onnx_file), tiny_extractor(onnx_file))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint(checkpoint, description, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = CHECKPOINTS[name]
    path = shutil.copy(checkpoint, tmp_path / FILE)
    case.spoil(tmp_path / FILE)
    before = sorted(tmp_path.parent.rglob("*"))
    if not case.words:
        model = load_model(path)
        assert all(torch.isfinite(p).all() for p in model.decoder.parameters())
    else:
        with pytest.raises(UserError) as caught:
            load_model(path)
        line = user_message(caught.value)
        assert line.isprintable() and all(word in line for word in (FILE, *case.words)), line
    # a run goes on from it or is told why not
    assert "\n" not in user_error(check_resumable, path, description)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_to_go_on_from(checkpoint, description, tmp_path, name):
    path = shutil.copy(checkpoint, tmp_path / FILE)
    RESUMED[name].spoil(path)
    assert load_model(path)  # good enough for inference
    line = user_error(check_resumable, path, description)
    assert all(word in line for word in RESUMED[name].words)
