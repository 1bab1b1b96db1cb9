"""A finished run of two epochs."""

import copy

import pytest
import torch
from tiny_run import fit

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.onnx_export.graph import export_decoder


@pytest.fixture(scope="session")
def run(coco_set, onnx_file, tmp_path_factory):
    """A finished run of two epochs: (folder of its checkpoints, its LightningModule)."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    _, module, _, _ = fit(coco_set, onnx_file, folder.parent, [EpochCheckpoint(folder, [64, 64])])
    return folder, module


@pytest.fixture(scope="session")
def checkpoint(run):
    """The checkpoint of the run's second epoch; read-only."""
    return newest_checkpoint(run[0])


@pytest.fixture
def content(checkpoint):
    """What that file holds, to be changed and saved."""
    return torch.load(checkpoint, weights_only=True)


@pytest.fixture(scope="package", autouse=True)
def _each_decoder_is_exported_once():
    """Keep what torch.onnx.export gave, which takes seconds: most exports differ in what follows it."""
    kept = {}

    def export(decoder, *arguments):
        key = (id(decoder), *map(str, arguments))
        if key not in kept:
            kept[key] = decoder, export_decoder(decoder, *arguments)
        return copy.deepcopy(kept[key][1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roiseg.onnx_export.export.export_decoder", export)
        yield
