"""What is printed if nobody reads it: the command goes on as if somebody did."""

import contextlib
import logging
import os
import sys
from pathlib import Path

import pytest
from helpers import start_command

from roiseg.common.console import StdoutHandler, Terminal

FULL = Path("/dev/full")
has_full = pytest.mark.skipif(not FULL.exists(), reason="a device that is always full")


@contextlib.contextmanager
def unread():
    """A pipe for text whose reader has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        yield stream


def by_rich():
    Terminal().print("a line")


def by_logging():
    StdoutHandler().handle(logging.makeLogRecord({"msg": "a line"}))


@pytest.mark.parametrize("printing", [by_rich, by_logging])
def test_what_nobody_reads_is_discarded(printing, capsys, monkeypatch):
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(3):
            printing()
        stream.write("another")
        stream.flush()  # reaches nobody, and fails no more
    assert capsys.readouterr().err == ""


@has_full
def test_output_that_cannot_be_written_is_reported_once(capsys, monkeypatch):
    with FULL.open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(3):
            by_logging()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_other_failures_of_a_log_line_are_reported(capsys):
    StdoutHandler().handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert "Logging error" in capsys.readouterr().err


PRINTING = [["roiseg", "--completion"], ["roiseg.train", "--cfg", "job"]]
PRINTING += [pytest.param(words, marks=pytest.mark.slow) for words in (
    ["roiseg"], ["roiseg.report", "--help"], ["roiseg.doctor", "tensors=*", "extractor=yolox"],
)]  # fmt: skip


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_command_whose_output_nobody_reads_succeeds_in_silence(words, tmp_path):
    with unread() as stream:
        process = start_command(words, tmp_path, stdout=stream)
        assert process.communicate()[1] == ""
    assert process.returncode == 0


@has_full
@pytest.mark.parametrize(
    "words", [*PRINTING, pytest.param(["roiseg.report", "nothing"], marks=pytest.mark.slow)], ids=" ".join
)
def test_a_command_whose_output_cannot_be_written_says_so_in_one_line(words, tmp_path):
    with FULL.open("w") as stream:
        process = start_command(words, tmp_path, stdout=stream)
        (line,) = process.communicate()[1].splitlines()
    assert process.returncode == 2
    assert line.startswith("roiseg: error: ")
    assert ("No space left on device" in line) == ("nothing" not in words)


@pytest.mark.slow
def test_a_training_whose_output_nobody_reads_ends_as_usual(tiny_overrides, tmp_path):
    with unread() as stream:
        words = ["roiseg.train", *tiny_overrides, "trainer.max_epochs=2"]
        process = start_command(words, tmp_path, stdout=stream)
        assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert len(list(tmp_path.glob("outputs/train/*/summary.json"))) == 1
