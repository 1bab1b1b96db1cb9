"""`python -m roiseg.prepare` as a process."""

import re
import subprocess
import sys

import pytest
from child_processes import wait_until
from coco_web import serve_coco
from helpers import run_command


def run(cwd, *arguments):
    return run_command(["roiseg.prepare", *arguments], cwd, {"no_proxy": "127.0.0.1"})


def from_the_web(web, sums):
    """Overrides that take COCO from a server, with these checksums."""
    return [f"base_url={web.url}", "sizes=[8,3]", *(f"md5.{name}={value}" for name, value in sums.items())]


def assert_refused(done, cwd, *fragments):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("roiseg: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(fragment in done.stderr for fragment in fragments), done.stderr
    assert not (cwd / "data").exists()


@pytest.mark.slow
def test_of_two_commands_at_once_one_downloads_and_the_other_waits(web, source, tmp_path):
    overrides = from_the_web(web, serve_coco(web, source))
    command = [sys.executable, "-m", "roiseg.prepare", *overrides]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
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
    with subprocess.Popen([sys.executable, "-m", "roiseg.prepare", *overrides], cwd=tmp_path) as process:
        try:
            wait_until(lambda: part.exists() and part.stat().st_size, lambda: process.poll() is None)
        finally:
            process.kill()
    have = part.stat().st_size  # what reached the disk
    assert 0 < have <= 20_000
    web.stall_at = None
    web.requests.clear()
    done = run(tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    size = len(web.files["/zips/train2017.zip"])
    assert {path: web.gets(path) for m, path, *_ in web.requests if m == "GET"} == {
        "/zips/train2017.zip": [(f"bytes={have}-", size - have)]
    }, "annotations and val2017 were complete"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["base_url=http://nowhere.invalid"], ["nowhere.invalid", "source=DIR"]),
        (["source=missing"], ["source folder not found: missing"]),
        (["source=coco", "sizes=[100,0]"], ["its item [1] must be greater than 0"]),
        (["source=coco", "images=move"], ["'link', 'copy' or 'skip'"]),
        (["source=coco", "seeed=1"], ["nearest: seed"]),
    ],
)
def test_command_refuses_wrong_settings(tmp_path, arguments, messages):
    assert_refused(run(tmp_path, *arguments), tmp_path, *messages)
