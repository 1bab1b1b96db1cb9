"""A checkpoint is all there or not at all."""

from __future__ import annotations

import os

import pytest
import torch

from roiseg.callbacks.checkpoints import AtomicCheckpointIO, last_checkpoint_message


def test_it_is_written_beside_its_place_and_moved_there_in_one_step(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *places: moved.append(places) or replace(*places))
    path = tmp_path / "ckpt" / "one.pth"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(3)}, path)
    ((source, _),) = [places for places in moved if places[1] == path]
    assert path.parent in source.parents  # from elsewhere a move may be a copy
    assert torch.load(path)["weights"].tolist() == [0, 1, 2]
    assert [p.name for p in path.parent.glob("[!.]*")] == ["one.pth"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "one.pth"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"epoch": lambda: 2}, path)
    assert torch.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["one.pth"]


def test_the_line_about_what_is_kept_names_the_newest(tmp_path):
    assert (
        last_checkpoint_message(None)
        == last_checkpoint_message(tmp_path)
        == last_checkpoint_message(tmp_path / "none")
        == "there is no checkpoint yet"
    )
    for epoch in (2, 10, 9):
        (tmp_path / f"checkpoint_epoch_{epoch:04d}_64x64_5000.pth").touch()
    (tmp_path / ".checkpoint_epoch_0011_64x64_5000-abcd1234.pth").touch()
    assert "checkpoint_epoch_0010_64x64_5000.pth" in last_checkpoint_message(tmp_path)
