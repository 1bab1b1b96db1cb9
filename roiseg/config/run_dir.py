"""Folders of a run: unique, marked, and locked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from roiseg.common.errors import UserError, unwritable_error
from roiseg.common.locks import LockedError, locked
from roiseg.common.outputs import absent_folders, own, remove_empty

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
