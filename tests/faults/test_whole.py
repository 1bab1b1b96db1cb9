"""The judge of what a killed run leaves: does it see what is not whole?"""

import shutil

import numpy as np
import pytest
import torch
from helpers import make_onnx

from roiseg.common.files import atomic_path, remove_leftovers, write_json
from roiseg.visualize.canvas import write_image
from tools.chaos.kills import Run, same
from tools.chaos.whole import half_written


@pytest.fixture
def left(tmp_path):
    """A folder with a whole file of some kinds."""
    write_image(tmp_path / "picture.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype("u1"))
    write_json(tmp_path / "summary.json", {"final": {"val/miou": 0.5}})
    (tmp_path / "instances.csv").write_text("image,iou\n1,0.5\n2,0.25\n")
    make_onnx(tmp_path / "decoder.onnx")
    return tmp_path


@pytest.mark.parametrize("name", ["picture.png", "summary.json", "instances.csv", "decoder.onnx"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_a_file_that_breaks_off_is_found(left, name, share):
    path = left / name
    content = path.read_bytes()
    assert half_written(left) == []
    path.write_bytes(content[: int(share * len(content))])
    assert half_written(left) == [path]


def test_a_checkpoint_that_breaks_off_and_a_file_of_no_known_kind_are_found(left):
    torch.save({"state_dict": {}}, left / "checkpoint.pth")
    (left / "what").touch()
    assert half_written(left) == [left / "checkpoint.pth", left / "what"]


def test_an_epoch_that_is_trained_again_or_whose_checkpoint_has_gone_is_lost(tmp_path):
    run = Run(tmp_path / "run", [])
    (tmp_path / "1.pth").touch()
    run.notes.write_text(f"starts 0\nfinished {tmp_path}/1.pth\nstarts 1\nkilled\nstarts 1\n")
    assert run.lost_epochs() == 0
    run.notes.write_text(f"starts 0\nfinished {tmp_path}/1.pth\nkilled\nstarts 0\n")
    assert run.lost_epochs() == 1
    run.notes.write_text(f"starts 0\nfinished {tmp_path}/2.pth\n")
    assert run.lost_epochs() == 1


def test_one_bit_is_a_difference():
    weights = {"a": torch.ones(3), "b": [torch.zeros(1), 0.1]}
    other = {"a": torch.ones(3), "b": [torch.zeros(1), np.nextafter(0.1, 1)]}
    assert same(weights, {"a": torch.ones(3), "b": [torch.zeros(1), 0.1]})
    assert not same(weights, other)
    assert not same(weights, {"a": torch.ones(3).double(), "b": [torch.zeros(1), 0.1]})
    assert not same({"a": torch.tensor([1.0])}, {"a": torch.tensor([1.0 + 2**-23])})


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "below").mkdir()
    kept = [tmp_path / name for name in (".roiseg_run", "below/a-b.json", ".gitlab-settings.json")]
    kept += [tmp_path / ".roiseg-abcdefgh" / "mine.txt", tmp_path / ".roiseg-settings"]
    kept[3].parent.mkdir()
    for path in kept:
        path.touch()
    with atomic_path(tmp_path / "below" / "checkpoint_epoch.pth") as temporary:
        shutil.copytree(temporary.parent, tmp_path / "copy")
        left = temporary.parent
    (tmp_path / "copy").rename(left)  # as a kill leaves it
    remove_leftovers(tmp_path)
    kept += [tmp_path / "below/checkpoint_epoch.pth", tmp_path / "below/.roiseg_made"]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
