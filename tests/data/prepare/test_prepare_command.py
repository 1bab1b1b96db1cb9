"""`python -m roiseg.prepare` as a process."""

import re
import subprocess

import pytest
from child_processes import wait_until
from helpers import run_command, start_command
from small_coco import serve_coco

import roiseg.prepare


def from_the_web(web, sums):
    """Overrides that take COCO from a server, with these checksums."""
    return [f"base_url={web.url}", "sizes=[8,3]", *(f"md5.{name}={value}" for name, value in sums.items())]


@pytest.mark.slow
def test_of_two_commands_at_once_one_downloads_and_the_other_waits(web, source, tmp_path):
    command = ["roiseg.prepare", *from_the_web(web, serve_coco(web, source))]
    both = [start_command(command, tmp_path, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    said = "".join(said)
    assert "already there: everything in data is complete" in said
    assert f"downloading {web.url}/zips/train2017.zip" in said and said.count("made data/") == 8
    assert re.search(r"instances_train2017_person_only_no_crowd_8\.json +8 +\d+ +\d\.\d\d ", said)
    assert len(web.gets("/zips/train2017.zip")) == 1
    assert not [path for path in (tmp_path / "data").iterdir() if path.name not in ("images", "annotations")]


@pytest.mark.slow
def test_command_that_was_killed_goes_on_where_it_stopped(web, source, tmp_path):
    overrides = from_the_web(web, serve_coco(web, source))
    part = tmp_path / "data" / "downloads" / "train2017.zip.part"
    web.stall_at = 20_000
    with start_command(["roiseg.prepare", *overrides], tmp_path, stdout=None, stderr=None) as process:
        try:
            wait_until(lambda: part.exists() and part.stat().st_size, lambda: process.poll() is None)
        finally:
            process.kill()
    have = part.stat().st_size  # what reached the disk
    assert 0 < have <= 20_000
    web.stall_at = None
    web.requests.clear()
    done = run_command(["roiseg.prepare", *overrides], tmp_path)
    assert done.returncode == 0, done.stderr
    size = len(web.files["/zips/train2017.zip"])
    assert {path: web.gets(path) for m, path, *_ in web.requests if m == "GET"} == {
        "/zips/train2017.zip": [(f"bytes={have}-", size - have)]
    }, "annotations and val2017 were complete"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["base_url=http://nowhere.invalid"], ["nowhere.invalid", "source=DIR"]),
        (["source=coco", "sizes=[100,0]"], ["its item [1] must be greater than 0"]),
        (["source=coco", "seeed=1"], ["nearest: seed"]),
    ],
)
def test_command_refuses_wrong_settings(refused, tmp_path, arguments, messages):
    refused(roiseg.prepare, arguments, *messages)
    assert not (tmp_path / "data").exists()
