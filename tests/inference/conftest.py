"""A finished run of two epochs."""

from __future__ import annotations

import pytest
import torch
from tiny_run import fit

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.inference.checkpoint import newest_checkpoint


@pytest.fixture(scope="module")
def run(coco_set, onnx_file, tmp_path_factory):
    """A finished run of two epochs: (folder of its checkpoints, its LightningModule)."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    _, module, _, _ = fit(coco_set, onnx_file, folder.parent, [EpochCheckpoint(folder, [64, 64])])
    return folder, module


@pytest.fixture(scope="module")
def checkpoint(run):
    """The checkpoint of the run's second epoch; read-only."""
    return newest_checkpoint(run[0])


@pytest.fixture
def content(checkpoint):
    """What that file holds, to be changed and saved."""
    return torch.load(checkpoint, weights_only=True)
