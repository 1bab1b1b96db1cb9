"""Going on from a checkpoint: which one, whether it fits, and where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.inference.checkpoint import newest, read_checkpoint

_TRAINER_STATE = {"optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"}


def find_last(checkpoint_dir: Path, config: dict[str, Any]) -> Path | None:
    """The newest checkpoint of the run that `config` describes.

    It is looked for in `checkpoint_dir`, then in the folders beside it: there, only runs with the same
    configuration count (where they write to and how long they train aside), newest first.
    """
    if found := newest(checkpoint_dir):
        return found
    siblings = [newest(folder) for folder in checkpoint_dir.parent.glob("*/") if folder != checkpoint_dir]
    candidates = sorted((path for path in siblings if path), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in candidates:
        try:
            saved = read_checkpoint(path)["roiseg"]["config"]
        except UserError:
            continue
        if identity(saved) == identity(config):
            return path
    return None


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes a run this run and not another."""
    kept = {
        key: config.get(key)
        for key in ("data", "extractor", "model", "loss", "optimizer", "scheduler", "clicks", "seed")
    }
    # what becomes of damaged images, and how boxes are read at inference, do not make another run
    kept["data"] = {k: v for k, v in (config.get("data") or {}).items() if k != "on_error"}
    kept["extractor"] = {k: v for k, v in (config.get("extractor") or {}).items() if k != "detector"}
    kept["trainer"] = {
        key: value
        for key, value in (config.get("trainer") or {}).items()
        if key not in ("max_epochs", "max_steps", "max_time", "default_root_dir")
    }
    kept["callbacks"] = sorted(config.get("callbacks") or {})
    return kept


def check_resumable(path: str | Path, description: dict[str, Any]) -> None:
    """Make sure a run described by `description` can go on from a checkpoint.

    Raises:
        UserError: unreadable, or trained with another decoder, class count or features.
    """
    content = read_checkpoint(path)
    if missing := sorted(_TRAINER_STATE - content.keys()):
        raise UserError(
            f"checkpoint {path} holds no `{missing[0]}`, so no run can go on from it: use one that "
            "`python -m roiseg.train` has written, as it is"
        )
    saved = content["roiseg"]
    theirs, ours = saved["config"].get("model") or {}, description["config"]["model"]
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"checkpoint {path} was trained with model.{key.strip('_')}={theirs.get(key)}, this run has "
                f"{ours.get(key)}: use the same model, or start without ckpt_path"
            )
    for part, key in (("optimizer", "_target_"), ("loss", "learned")):  # what its other state belongs to
        before, now = ((c["config"].get(part) or {}).get(key) for c in (saved, description))
        if before != now:
            raise UserError(
                f"checkpoint {path} was trained with {part}.{key}={before}, this run has {now}: "
                "use the same, or start without ckpt_path"
            )
    for key in ("layers", "shapes"):
        if saved[key] != description[key]:
            raise UserError(
                f"checkpoint {path} was trained on features with {key} {saved[key]}, this run has "
                f"{description[key]}: use the same extractor, or start without ckpt_path"
            )


def progress(content: dict[str, Any]) -> tuple[int, int]:
    """Epochs that a checkpoint has finished, and batches of the one after."""
    if "in_epoch" in content:
        return content["epoch"], content["in_epoch"]["batches"]
    return content["epoch"] + 1, 0
