"""Explain in one line which resource of the machine ran out: disk, memory, processes."""

from __future__ import annotations

import errno
import os
import re
import traceback

from roiseg.common.errors import UnwritableError, out_of_memory, unwritable_error

_UNWRITABLE = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG")
}
_LESS_MEMORY = (
    "lower data.batch_size, data.val_batch_size, max_rois, data.num_workers or data.cache.budget_gb "
    "(data/cache=disk needs no memory)"
)
_SHARED = re.compile(
    r"(insufficient|out of) shared memory|unable to (open|allocate) shared memory"
    r"|unable to write to file </torch|unable to mmap \d+ bytes from file </torch|shm_open",
    re.IGNORECASE | re.DOTALL,
)
_NO_SHARED = (
    "loader processes pass batches through shared memory, and there is too little of it: "
    "data.num_workers=0, or a larger /dev/shm (docker run --shm-size=4g)"
)
_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (is killed by signal: (\w+)|exited unexpectedly)"
)


def resource_error_message(error: BaseException | None, log: str | None = None) -> str | None:
    """Return which resource ran out and which settings need less of it; None for any other error.

    Libraries often fail again while they clean up: the first error is explained.

    Args:
        error: what has been raised.
        log: folder of the log that was written at that, if any.
    """
    if error is None or isinstance(error, UnwritableError):
        return None if error is None else str(error)
    log = _log_folder(error) or log
    return resource_error_message(error.__context__, log) or _explain_one(error, log)


def _explain_one(error: BaseException, log: str | None) -> str | None:
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        if _passes_batches(error):
            return _NO_SHARED
        named = error.filename and os.path.abspath(os.fsdecode(error.filename))
        return str(unwritable_error(named or log or "what is printed", error))
    text = str(error)
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:
        return f"{text}: set TMPDIR to a writable folder with free space"
    if _SHARED.search(text):
        return _NO_SHARED
    if worker := _WORKER.search(text):
        how = f"was killed ({worker[3]})" if worker[3] else "has ended"
        return f"loader process {worker[1].strip()} {how}, probably because memory ran out: {_LESS_MEMORY}"
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return "too many open files: lower data.num_workers, or raise the limit (ulimit -n 65536)"
    if isinstance(error, BlockingIOError) or "can't start new thread" in text:
        return "no more processes or threads can be started: lower data.num_workers, or raise ulimit -u"
    if out_of_memory(error):
        return f"out of memory ({_first_line(text) or type(error).__name__}): {_LESS_MEMORY}"
    return None


def _log_folder(error: BaseException) -> str | None:
    """Return the folder of the logger in whose code an error arose, if any."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if type(owner).__module__.startswith(("lightning.pytorch.loggers.", "torch.utils.tensorboard.")):
            return getattr(owner, "log_dir", None)
    return None


def _passes_batches(error: BaseException) -> bool:
    """Return whether the error arose where Python makes queues between processes."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith("multiprocessing.")


def _first_line(text: str) -> str:
    """Return the line of a library's message that is about the failure, without a loader's traceback."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines and lines[0].startswith("Caught ") else lines[0] if lines else "")[:160]
