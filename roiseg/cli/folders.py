"""Where a run writes: folders that no other run writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from roiseg.common.errors import UserError, unwritable
from roiseg.common.locks import TakenError, locked

_MARK = ".roiseg_run"


def claim(folder: str | Path) -> Path:
    """Make `folder` this run's own; if another run has it already, take `folder-2`, `-3`, ...

    Safe among processes that ask for the same folder at the same moment.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = Path(folder)
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another run, which failed, has just removed it: again
                os.close(os.open(path / _MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return path
        except FileExistsError:
            if path.exists() and not path.is_dir():
                raise UserError(f"output folder {path} is a file: give another paths.output_dir") from None
            number += 1
        except OSError as error:
            raise unwritable(f"output folder {path}", error) from None


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep all others from going on with the run of this folder while the block runs, or this process lives.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _MARK, wait=False))
        except TakenError as taken:
            raise UserError(
                f"the run in {folder} is still going on ({taken}): let it end before going on from it, or "
                "start another run without ckpt_path"
            ) from None
        except OSError as error:
            raise UserError(
                f"folder {folder} cannot be written ({error.strerror}): give another one"
            ) from None
        yield
