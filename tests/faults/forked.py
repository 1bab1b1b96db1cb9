"""A command of the program in a forked process, which has everything imported already."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST = 300  # seconds of one command
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}(\.\w+)?|.*\.tmp")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit status; minus the signal that killed it.
        output: everything it wrote to stdout and stderr.
    """

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        """The lines by which the program says what is wrong."""
        return [line for line in self.output.splitlines() if line.startswith("roiseg: error: ")]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.output.splitlines() if "WARNING" in line or "Warning" in line]

    @property
    def in_one_line(self) -> bool:
        """Ended by one clear line and code 2, without a traceback."""
        return self.code == 2 and len(self.errors) == 1 and "Traceback" not in self.output


def run(
    command: str, arguments: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None
) -> Outcome:
    """Run `python -m roiseg.COMMAND ARGUMENTS...` in `folder` and wait for it.

    Args:
        command: name of the program.
        arguments: of its command line.
        folder: current directory.
        before: called in the new process before anything else.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _command(command, arguments, folder, before, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        output = stream.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Outcome(code, output)


def _command(
    command: str, arguments: Sequence[str], folder: Path, before: Callable[[], object], output: int
) -> None:
    """In the forked process; does not return."""
    code = 1
    try:
        signal.alarm(LONGEST)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(folder)
        before()
        sys.argv = [f"roiseg/{command}.py", *map(str, arguments)]
        importlib.import_module(f"roiseg.{command}").main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def temporary_files(folder: Path) -> list[Path]:
    """What writers have left behind below a folder."""
    return [path for path in folder.rglob("*") if path.is_file() and _TEMPORARY.fullmatch(path.name)]
