"""The folders of a run: unique, marked and locked; a new run gets new ones, a resumed run keeps its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from roiseg.common.errors import UserError, unwritable_error
from roiseg.common.files import atomic_path, remove_leftovers, require_file
from roiseg.common.locks import LockedError, locked
from roiseg.common.outputs import absent_folders, own, remove_empty
from roiseg.config import build
from roiseg.config.processes import Processes
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import checkpoint_metadata, read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.training.resume import check_resumable, find_last

_MARK = ".roiseg_run"


def create_unique_dir(folder: str | Path) -> Path:
    """Create `folder` for this run; if it holds anything already, `folder-2`, `-3`, ...

    What Hydra puts there (hidden folders, logs) does not count. Safe among processes that ask for the same
    folder at the same moment.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = Path(folder).absolute()
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another run, which failed, has just removed it: try again
                if any(entry.suffix != ".log" for entry in path.glob("[!.]*")):
                    raise FileExistsError
                os.close(os.open(path / _MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                own(path)
                return path
        except FileExistsError:
            if path.exists() and not path.is_dir():
                raise UserError(f"output folder {path} is a file: give another paths.output_dir") from None
            number += 1
        except OSError as error:
            raise unwritable_error(f"output folder {path}", error) from None


@contextmanager
def claimed(folder: str | Path) -> Iterator[Path]:
    """Create a unique folder for a block; if the block fails before it writes, remove the folder."""
    folder = Path(folder).absolute()
    above = absent_folders(folder.parent)
    path = create_unique_dir(folder)
    try:
        yield path
    except BaseException:
        with suppress(OSError):  # the folder was removed meanwhile
            if [entry.name for entry in path.iterdir()] == [_MARK]:
                (path / _MARK).unlink()
                remove_empty([path, *above])
        raise


def is_run(output: Path, checkpoints: Path) -> bool:
    """Return whether two folders belong to one run: both marked, and named in its configuration."""
    if not (is_claimed(output) and is_claimed(checkpoints)):
        return False
    try:
        paths = OmegaConf.select(OmegaConf.load(output / "config.yaml"), "paths")
        named = [Path(paths[key]).resolve() for key in ("output_dir", "checkpoint_dir")]
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException):
        return False
    return named == [output.resolve(), checkpoints.resolve()]


def is_claimed(folder: Path) -> bool:
    """Return whether a run created or took this folder."""
    return (folder / _MARK).is_file()


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keep other processes from resuming the run of this folder during the block.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _MARK, wait=False))
        except LockedError as taken:
            raise UserError(
                f"the run in {folder} is still running ({taken}): wait until it has ended "
                "before you resume it, or start another run without ckpt_path"
            ) from None
        except OSError as error:
            raise UserError(
                f"folder {folder} cannot be written ({error.strerror}): give another one"
            ) from None
        own(folder)
        yield


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
