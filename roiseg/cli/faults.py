"""What the machine lacks, in one line: room on the disk, memory, processes."""

from __future__ import annotations

import errno
import os
import re
import traceback
from pathlib import Path

from roiseg.common.errors import UnwritableError, unwritable

_UNWRITABLE = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG")
}
_LESS_MEMORY = (
    "lower data.batch_size, data.val_batch_size, max_rois, data.num_workers or data.cache.budget_gb "
    "(data/cache=disk takes no memory)"
)
_MEMORY = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|insufficient memory|cannot allocate memory"
    r"|failed to allocate|not enough memory|unable to allocate",
    re.IGNORECASE,
)
_SHARED = re.compile(
    r"(insufficient|out of) shared memory|unable to (open|allocate) shared memory"
    r"|unable to write to file </torch|unable to mmap \d+ bytes from file </torch|shm_open",
    re.IGNORECASE | re.DOTALL,
)
_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (is killed by signal: (\w+)|exited unexpectedly)"
)


def explain_fault(error: BaseException) -> str | None:
    """Say which resource has run out and which settings need less of it; None for any other error."""
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is not None:
        return str(unwritable(os.path.abspath(error.filename), error))
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return _explain_nameless(error)
    text = str(error)
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:
        return f"{text}: set TMPDIR to a folder that can be written and has room"
    if _SHARED.search(text):
        return (
            "loader processes pass batches through shared memory, and there is too little of it: "
            f"data.num_workers=0, or a larger {_SHARED_FOLDER} (docker run --shm-size=4g)"
        )
    if worker := _WORKER.search(text):
        how = f"was killed ({worker[3]})" if worker[3] else "has ended"
        return (
            f"loader process {worker[1].strip()} {how}, as the system does where memory runs out: "
            f"{_LESS_MEMORY}"
        )
    if _out_of_files(error):
        return "too many open files: lower data.num_workers, or raise the limit (ulimit -n 65536)"
    if _out_of_processes(error):
        return "no more processes or threads can be started: lower data.num_workers, or raise ulimit -u"
    if _out_of_memory(error):
        return f"out of memory ({_first_line(text) or type(error).__name__}): {_LESS_MEMORY}"
    return None


def _explain_nameless(error: OSError) -> str:
    """Writing through a file that was open already; often it follows another write that has failed."""
    before = error.__context__
    while before is not None:
        if isinstance(before, UnwritableError):
            return str(before)
        before = before.__context__
    return str(unwritable(_log_folder(error) or "what is printed", error))


def _log_folder(error: BaseException) -> str | None:
    """Where the logger writes in whose code an error arose, if it did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if type(owner).__module__.startswith(("lightning.pytorch.loggers.", "torch.utils.tensorboard.")):
            return getattr(owner, "log_dir", None)
    return None


_SHARED_FOLDER = Path("/dev/shm")  # noqa: S108 (named, not written to)


def _out_of_files(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(
        error
    )


def _out_of_processes(error: BaseException) -> bool:
    return isinstance(error, BlockingIOError) or "can't start new thread" in str(error)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    library = type(error).__module__.partition(".")[0] in ("torch", "onnxruntime", "cv2")
    return (library or isinstance(error, RuntimeError)) and _MEMORY.search(str(error)) is not None


def _first_line(text: str) -> str:
    """The part of a library's message that is about the failure; not the traceback of a loader process."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines and lines[0].startswith("Caught ") else lines[0] if lines else "")[:160]
