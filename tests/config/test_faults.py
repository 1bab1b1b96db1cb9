import errno
import os
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from roiseg.common.errors import UnwritableError
from roiseg.common.files import atomic_path, write_json
from roiseg.config.resource_errors import resource_error_message


def system_error(number, *path):
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system_error(errno.ENOSPC, "/full/a.png"), ["/full/a.png cannot be written", "the disk is full"]),
        (system_error(errno.ENOSPC, b"/full/events"), ["/full/events cannot be written"]),
        (system_error(errno.EROFS, "/ro/a.png"), ["/ro/a.png", "give another folder"]),
        (system_error(errno.EMFILE), ["too many open files", "ulimit -n"]),
        (system_error(errno.ENOMEM), ["out of memory", "data.batch_size"]),
        (MemoryError(), ["out of memory (MemoryError)", "data.cache.budget_gb"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), ["max_rois"]),
        (RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. "), ["process 17 was killed (Killed)"]),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), ["process 17, 18 has ended"]),
        (
            RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. workers are out of shared memory."),
            ["data.num_workers=0", "/dev/shm"],
        ),
    ],
)  # fmt: skip
def test_what_has_run_out_and_what_to_lower(error, words):
    line = resource_error_message(error)
    assert line is not None and all(word in line for word in words)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), KeyError("a"), FileNotFoundError(2, "no", "a"), None]
)
def test_other_errors_are_not_explained(error):
    assert resource_error_message(error) is None


def test_what_came_first_is_told_where_clearing_up_fails_too():
    def fail():
        try:
            raise MemoryError
        finally:
            raise RuntimeError("cannot clear up")

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert "out of memory" in str(resource_error_message(caught.value))


def test_a_file_that_cannot_be_written_is_named_and_nothing_of_it_is_left(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def fill(temporary):
        temporary.write_text("half")
        raise system_error(errno.ENOSPC)

    with pytest.raises(UnwritableError, match=r"a\.json cannot be written .* the disk is full"):  # noqa: SIM117
        with atomic_path(path) as temporary:
            fill(temporary)
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["a.json"]
    assert path.read_text() == "1\n"


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "made") as _:
        raise system_error(errno.EACCES, "/elsewhere/read.jpg")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_log_that_cannot_be_closed_either_is_named(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"loss": 1.0}, 0)
    Path(logger.log_dir, "metrics.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        logger.save()
    assert resource_error_message(raised.value).startswith(f"{tmp_path}")
