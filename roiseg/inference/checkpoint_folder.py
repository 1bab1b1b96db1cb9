"""Names of checkpoint files, and the best and newest one in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.common.files import home_path, read_json, require_file, written_at
from roiseg.common.outputs import remove
from roiseg.common.package_files import package_file

_NAME = re.compile(r"checkpoint_epoch_(\d{4,})_\d+x\d+_(\d{4,5})\.pth")
_IN_EPOCH = re.compile(r"checkpoint_in_epoch_(\d{4,})\.pth")


def checkpoint_file(path: str | Path) -> Path:
    """Return a checkpoint that is given as a file, by the name of one that ships with roiseg, or as a folder.

    The folder holds checkpoints, and the one of the highest validation mIoU, which is part of the name, is
    the best; or it is the folder of a finished run, whose summary names the best.

    Raises:
        UserError: the file does not exist, or the folder holds no checkpoint.
    """
    hint = "give a .pth file written by `python -m roiseg.train`, or its folder"
    folder = home_path(path)
    shipped = package_file("ext_extractor") / folder.name
    if not folder.exists() and str(path) == shipped.name and shipped.is_file():
        return require_file(shipped, "checkpoint")
    if not folder.is_dir():
        return require_file(path, "checkpoint", hint)
    named = [(match, file) for file in folder.glob("*.pth") if (match := _NAME.fullmatch(file.name))]
    best: Path | None
    if named:
        best = max(named, key=lambda found: (int(found[0][2]), -int(found[0][1])))[1]
    else:
        summary = read_json(folder / "summary.json", "summary") if (folder / "summary.json").is_file() else {}
        best = Path(str(summary["best_checkpoint"])) if _names_checkpoint(summary) else None
    if best is None:
        raise UserError(f"folder {folder} has no checkpoint of an epoch: {hint}")
    return require_file(best, "checkpoint", hint)


def _names_checkpoint(summary: Any) -> bool:
    return isinstance(summary, dict) and isinstance(summary.get("best_checkpoint"), str)


def checkpoint_name(epoch: int, image_size: Sequence[int], miou: float) -> str:
    """Return the file name of the checkpoint of 1-based `epoch`."""
    height, width = image_size
    return f"checkpoint_epoch_{epoch:04d}_{height}x{width}_{round(miou * 10_000):04d}.pth"


def in_epoch_name(epoch: int) -> str:
    """Return the file name of the checkpoint within an epoch (1-based)."""
    return f"checkpoint_in_epoch_{epoch:04d}.pth"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the most training in a folder, or None."""
    found = _by_progress(folder)
    return found[-1] if found else None


def remove_outdated(folder: Path) -> None:
    """Remove the checkpoints within an epoch that are older than the newest checkpoint."""
    for path in _by_progress(folder)[:-1]:
        if _IN_EPOCH.fullmatch(path.name):
            remove(path)


def _by_progress(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the one with the most training last."""
    try:
        names = os.listdir(folder)
    except OSError:  # missing, or another process has removed it
        return []
    found = []
    for path in (folder / name for name in names):
        if match := _NAME.fullmatch(path.name):
            # several of one epoch: training ended within it, and was resumed
            found.append((int(match[1]), 0, written_at(path), path))
        elif match := _IN_EPOCH.fullmatch(path.name):
            found.append((int(match[1]) - 1, 1, 0, path))
    return [path for *_, path in sorted(found)]
