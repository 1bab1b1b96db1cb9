"""A command in a forked process that has already imported everything."""

from __future__ import annotations

import importlib
import multiprocessing.util
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

LONGEST = 400  # seconds of one command
_TEMPORARY = re.compile(r"\.roiseg-.*|.*\.tmp")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit status; minus the signal that killed it.
        output: everything it wrote to stdout and stderr.
        orphans: whether it left processes behind.
    """

    code: int
    output: str
    orphans: bool = False

    @property
    def errors(self) -> list[str]:
        """Return the error lines of the program."""
        return [line for line in self.output.splitlines() if line.startswith("roiseg: error: ")]

    @property
    def in_one_line(self) -> bool:
        """Tell whether it ended with one line and code 2, without a traceback or orphan."""
        clear = len(self.errors) == 1 and "Traceback" not in self.output
        return self.code == 2 and clear and not self.orphans


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
    sys.stdout.flush()
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if process == 0:
            be(command, arguments, folder, output.fileno(), before)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        orphans = _end_of_group(process)
        output.seek(0)
        return Outcome(code, output.read().decode(errors="replace"), orphans)


def _end_of_group(process: int) -> bool:
    """End remaining child processes; return whether any did not end by themselves."""
    for _ in range(200):  # loader processes look for their parent every 5 seconds
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    return True


def be(
    command: str, arguments: Sequence[str], folder: Path, output: int, before: Callable[[], object]
) -> NoReturn:
    """Run a command in a forked process, which ends with it, or after LONGEST by SIGALRM.

    It gets its own session and process group.

    Args:
        command, arguments, folder, before: see `run`.
        output: file for its output.
    """
    code = 1
    try:
        os.setsid()
        signal.alarm(LONGEST)
        os.dup2(output, 1)
        os.dup2(output, 2)
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
        multiprocessing.util._exit_function()  # the rest of a normal exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files left below a folder."""
    return [path for path in folder.rglob("*") if _TEMPORARY.fullmatch(path.name)]
