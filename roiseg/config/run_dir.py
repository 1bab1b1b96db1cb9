"""Where a run writes: folders that no other run writes to."""

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
    """Make `folder` this run's own; if it holds anything already, take `folder-2`, `-3`, ...

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
            with suppress(FileNotFoundError):  # another run, which failed, has just removed it: again
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
    """Claim a folder for a block; if that fails before anything is written, the folder goes again."""
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
    """Do two folders prove to be those of one run, which it has claimed and which its configuration names?"""
    if not (is_claimed(output) and is_claimed(checkpoints)):
        return False
    try:
        paths = OmegaConf.select(OmegaConf.load(output / "config.yaml"), "paths")
        named = [Path(paths[key]).resolve() for key in ("output_dir", "checkpoint_dir")]
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException):
        return False
    return named == [output.resolve(), checkpoints.resolve()]


def is_claimed(folder: Path) -> bool:
    """Has a run made this folder, or taken it while it was empty?"""
    return (folder / _MARK).is_file()


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keep all others from going on with the run of this folder while the block runs, or this process lives.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _MARK, wait=False))
        except LockedError as taken:
            raise UserError(
                f"the run in {folder} is still going on ({taken}): let it end before going on from it, or "
                "start another run without ckpt_path"
            ) from None
        except OSError as error:
            raise UserError(
                f"folder {folder} cannot be written ({error.strerror}): give another one"
            ) from None
        own(folder)
        yield
