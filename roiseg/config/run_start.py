"""Start or resume a run: the checkpoint it resumes, and the folders it writes to."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from roiseg.common.files import atomic_path, remove_leftovers, require_file
from roiseg.common.outputs import own
from roiseg.config import build
from roiseg.config.processes import Processes
from roiseg.config.run_dir import create_unique_dir, is_claimed, is_run, lock_run_dir
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import checkpoint_metadata, read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.training.resume import check_resumable, find_last

log = logging.getLogger(__name__)


def find_checkpoint(cfg: DictConfig, extractor: OnnxExtractor) -> Path | None:
    """Return the checkpoint that `ckpt_path` asks to resume, if any, checked to fit this run."""
    if cfg.ckpt_path is None:
        return None
    if cfg.ckpt_path != "last":
        hint = "set ckpt_path to a .pth file or to `last`"
        found: Path | None = require_file(cfg.ckpt_path, "checkpoint", hint).absolute()
    else:
        found = find_last(Path(cfg.paths.checkpoint_dir).absolute(), build.to_plain(cfg))
    if found is None:
        log.warning("ckpt_path=last: this run has no checkpoint yet, it starts from the beginning")
    else:
        check_resumable(found, checkpoint_metadata(build.to_plain(cfg), extractor))
    return found


def choose_run_folders(cfg: DictConfig, checkpoint: Path | None, held: ExitStack) -> None:
    """Set where this run writes, in `cfg.paths`, and save the configuration there.

    A run that resumes its own newest checkpoint keeps its folders, if their content proves that they belong
    to one run; the paths in a checkpoint are not trusted. Any other run gets new folders. Until `held` is
    closed, no other process can resume there.

    Raises:
        UserError: another process is training there.
    """
    output, checkpoints = Path(cfg.paths.output_dir).absolute(), Path(cfg.paths.checkpoint_dir).absolute()
    before = None if checkpoint is None else run_of(checkpoint)
    if before is not None and cfg.ckpt_path == "last" and before[1] != checkpoints:
        output, checkpoints = before
    resumes = checkpoint is not None and checkpoint.parent == checkpoints and is_claimed(checkpoints)
    if before != (output, checkpoints):
        output = create_unique_dir(output)
    if not resumes:
        checkpoints = create_unique_dir(checkpoints)
    for folder in (output, checkpoints):
        held.enter_context(lock_run_dir(folder))
    if resumes:
        remove_leftovers(output, checkpoints)
        if cfg.ckpt_path == "last":  # another process may have resumed and ended meanwhile
            checkpoint = newest_checkpoint(checkpoints)
    with open_dict(cfg):
        cfg.paths.output_dir, cfg.paths.checkpoint_dir = str(output), str(checkpoints)
        cfg.ckpt_path = None if checkpoint is None else str(checkpoint)
    with atomic_path(output / "config.yaml") as path:
        OmegaConf.save(cfg, path, resolve=True)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)


def run_of(checkpoint: Path) -> tuple[Path, Path] | None:
    """Return the two folders of the run that wrote a checkpoint, if they are still that run's."""
    paths = read_checkpoint(checkpoint)["roiseg"]["config"].get("paths")
    output = paths.get("output_dir") if isinstance(paths, dict) else None
    if not isinstance(output, str) or not is_run(Path(output), checkpoint.parent):
        return None
    return Path(output), checkpoint.parent


def broadcast_folders(cfg: DictConfig, processes: Processes) -> Path | None:
    """Take over the folders of the first process; returns the checkpoint to resume, if any."""
    keys = ("paths.output_dir", "paths.checkpoint_dir", "ckpt_path")
    for key, value in zip(
        keys, processes.broadcast([OmegaConf.select(cfg, key) for key in keys]), strict=True
    ):
        OmegaConf.update(cfg, key, value)
    for folder in (cfg.paths.output_dir, cfg.paths.checkpoint_dir):
        own(Path(folder))
    return None if cfg.ckpt_path is None else Path(cfg.ckpt_path)
