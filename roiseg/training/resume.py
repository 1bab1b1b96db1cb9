"""Resuming from a checkpoint: which one, whether it fits, and where it was."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.common.files import written_at
from roiseg.inference.checkpoint import read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint

_TRAINER_STATE = {"optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"}
# what makes a run this run and not another
_PARTS = (
    "seed", "data", "extractor", "model", "loss", "optimizer", "scheduler", "clicks", "distillation",
    "trainer", "callbacks",
)  # fmt: skip
# but for these: where it writes, how long it trains, what becomes of damaged images, how boxes are read
_SAME_RUN = (
    "data.on_error", "extractor.postprocess*", "callbacks.*.*", "trainer.default_root_dir",
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time",
)  # fmt: skip
# what a resumed run takes from its own configuration, not from the checkpoint, and may therefore change;
# the detector's SHA-256 is compared whatever its path
_HONOURED = (
    "data.train_annotations", "data.train_images", "data.val_annotations", "data.val_images", "data.source*",
    "data.reader*", "data.index_dir", "data.num_workers", "data.pin_memory", "data.val_batch_size",
    "data.cache*", "tta*", "data.tta*", "extractor.onnx_path", "extractor.source*", "extractor.providers",
    "extractor.threads", "trainer.accelerator", "trainer.strategy*", "trainer.benchmark", "trainer.enable_*",
    "trainer.detect_anomaly", "trainer.profiler*", "trainer.log_every_n_steps", "trainer.limit_val_batches",
    "trainer.limit_test_batches", "trainer.num_sanity_val_steps", "trainer.check_val_every_n_epoch",
    "callbacks*",
)  # fmt: skip
# of the callbacks, these are restored from the checkpoint
_RESTORED = ("callbacks.ema", "callbacks.early_stopping.patience")


def find_last(checkpoint_dir: Path, config: dict[str, Any]) -> Path | None:
    """Return the newest checkpoint of the run that `config` describes.

    It is looked for in `checkpoint_dir`, then in the folders beside it: there, only runs with the same
    configuration count (where they write to and how long they train aside), newest first.
    """
    if found := newest_checkpoint(checkpoint_dir):
        return found
    siblings = [
        newest_checkpoint(folder) for folder in checkpoint_dir.parent.glob("*/") if folder != checkpoint_dir
    ]
    candidates = sorted((path for path in siblings if path), key=written_at, reverse=True)
    for path in candidates:
        try:
            saved = read_checkpoint(path)["roiseg"]["config"]
        except UserError:
            continue
        if not changes(saved, config, _SAME_RUN):
            return path
    return None


def changes(before: dict[str, Any], now: dict[str, Any], allowed: tuple[str, ...]) -> dict[str, Any]:
    """Compare two configurations, except `allowed` keys: dotted key -> (before, now)."""
    found = _differences({k: before.get(k) for k in _PARTS}, {k: now.get(k) for k in _PARTS})
    return {
        key: values
        for key, values in found
        if key in _RESTORED or not any(fnmatchcase(key, pattern) for pattern in allowed)
    }


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, (before, now)


def check_resumable(path: str | Path, description: dict[str, Any]) -> None:
    """Check that a run described by `description` can resume from a checkpoint.

    Optimizer, schedule and progress come from the checkpoint. What they keep a changed setting from having
    its effect is refused, so that the run's `config.yaml` is true of all its epochs.

    Raises:
        UserError: unreadable, or trained with other settings or another detector.
    """
    content = read_checkpoint(path)
    if missing := sorted(_TRAINER_STATE - content.keys()):
        raise UserError(
            f"checkpoint {path} has no `{missing[0]}`, so no run can resume from it: use one that "
            "`python -m roiseg.train` has written, as it is"
        )
    saved = content["roiseg"]
    changed = changes(saved["config"], description["config"], _SAME_RUN + _HONOURED)
    if changed:
        told = [f"{key}={before} (this run: {now})" for key, (before, now) in changed.items()]
        more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        raise UserError(
            f"checkpoint {path} was trained with {', '.join(told[:_TOLD])}{more}: "
            "resume with the same, or start without ckpt_path"
        )
    for key in ("extractor_sha256", "layers", "shapes"):
        if saved[key] != description[key]:
            raise UserError(
                f"checkpoint {path} was trained on features with {key} {saved[key]}, this run has "
                f"{description[key]}: use the same extractor, or start without ckpt_path"
            )


_TOLD = 5  # settings named in one line


def checkpoint_progress(content: dict[str, Any]) -> tuple[int, int]:
    """Return the number of finished epochs, and of batches of the next one."""
    if "in_epoch" in content:
        return content["epoch"], content["in_epoch"]["batches"]
    return content["epoch"] + 1, 0
