import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from child_processes import CHILDREN, PATIENCE
from helpers.races import acting_before_call

from roiseg.common.errors import UserError
from roiseg.common.files import _about
from roiseg.extractor.cache import disk, folders
from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.cache.codec import Half, Int8
from roiseg.extractor.cache.disk import DiskCache
from roiseg.extractor.cache.memory import MemoryCache

SHAPE = (2, 3, 3)
BYTES = 36
FILE = BYTES + 32


def opened(folder, files=100, extractor="detector", codec=None, shape=SHAPE):
    cache = DiskCache(folder, codec or Half(), files * FILE / 1e9)
    cache.open(extractor, [shape])
    return cache


def key(name, fingerprint=0):
    return CacheKey.of(name, fingerprint)


def keys(count):
    return [key(number) for number in range(count)]


def row(value):
    return torch.full((1, BYTES), value, dtype=torch.uint8)


def rows(*values):
    return torch.cat([row(value) for value in values])


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    """An open cache with room for 50 images."""
    if request.param == "disk":
        return opened(tmp_path, files=50)
    cache = MemoryCache(Half(), 50 * BYTES / 1e9)
    cache.open("detector", [SHAPE])
    return cache


def loaded(cache, *keys):
    found = [cache.get(k) for k in keys]
    assert all(one.hit for one in found)
    return cache.load(keys, torch.tensor(np.array([one.row for one in found if one.row is not None])))


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "about.json")


def hits(cache, *keys):
    return [cache.get(k).hit for k in keys]


def test_what_is_stored_comes_back_as_it_was(cache):
    assert not cache.get(key("a")).hit
    given = rows(1, 2)
    cache.store([key("a"), key("b")], given)
    given.fill_(9)
    assert hits(cache, key("a"), key("b"), key("c")) == [True, True, False]
    assert torch.equal(loaded(cache, key("b"), key("a")), rows(2, 1))


def test_another_content_is_stale_and_is_replaced_in_place(cache):
    cache.store(keys(50), rows(*range(50)))
    assert not cache.get(key(2, 1)).hit
    cache.store([key(2, 1)], row(9))
    assert hits(cache, key(2), key(2, 1)) == [False, True]
    assert torch.equal(loaded(cache, key(2, 1), key(3)), rows(9, 3))
    assert cache.counts["rejected"] == 0


def test_a_full_cache_keeps_what_it_has(cache):
    for number in range(60):
        cache.store([key(number)], row(number))
    assert hits(cache, *keys(60)) == [True] * 50 + [False] * 10
    assert cache.counts["rejected"] == 10


def _see(cache, go, answers):
    go.wait(PATIENCE)
    answers.put((hits(cache, key("a"), key("b")), len(getattr(cache, "_rows", ()))))


@pytest.mark.slow  # starts a process
def test_loader_processes_that_are_not_forked_see_what_is_stored_after_they_started(cache):
    go, answers = CHILDREN.Event(), CHILDREN.Queue()
    process = CHILDREN.Process(target=_see, args=(cache, go, answers))
    process.start()
    cache.store([key("a")], row(1))
    go.set()
    assert answers.get(timeout=PATIENCE) == ([True, False], 0)  # the table only, not the features
    process.join()


def test_a_plan_that_does_not_fit_into_memory_is_announced_with_its_size(caplog):
    cache = MemoryCache(Half(), 10 * BYTES / 1e9)
    cache.open("detector", [SHAPE])
    assert cache.plan(10) == 10
    assert not caplog.records
    assert cache.plan(1000) == 10
    assert (
        "1000 images" in caplog.text and "1 %" in caplog.text and "raise data.cache.budget_gb" in caplog.text
    )


def test_a_plan_tells_what_it_takes_where_and_what_is_stored(tmp_path, caplog):
    opened(tmp_path).store(keys(3), rows(1, 2, 3))
    with caplog.at_level("INFO"):
        assert opened(tmp_path).plan(4) == 1
    assert f"4 images of 0.00 MB take 0.00 GB in {tmp_path}, 3 are stored" in caplog.text


def test_a_plan_for_a_disk_without_room_names_the_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000_000}))
    assert opened(tmp_path).plan(4) == 0
    assert f"{tmp_path} has no room for more: set" in caplog.text


def test_the_next_run_finds_what_is_on_the_disk_and_another_detector_codec_or_shape_shares_nothing(tmp_path):
    opened(tmp_path).store([key("a")], row(1))
    for options in ({"extractor": "other"}, {"codec": Int8()}, {"shape": (3, 3, 2)}):
        assert not opened(tmp_path, **options).get(key("a")).hit
    assert opened(tmp_path).get(key("a")).hit


def flipped(position):
    return lambda content: content[:position] + bytes([content[position] ^ 128]) + content[position + 1 :]


@pytest.mark.parametrize("spoil", [
    *(lambda content, size=size: content[:size] for size in (0, 1, 31, 32, 33, FILE - 1)),
    lambda content: content + b"x",
    *(flipped(position) for position in (0, 7, 24, 31, 32, 50, FILE - 1)),
    lambda content: bytes(FILE),  # what some file systems leave after a power cut
])  # fmt: skip
def test_a_damaged_file_is_found_removed_and_made_anew(tmp_path, spoil, caplog):
    cache = opened(tmp_path)
    cache.store([key("a")], row(1))
    [path] = files(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    assert not cache.get(key("a")).hit and cache.damaged == 1
    assert str(path) in caplog.text and not path.exists()
    assert not cache.get(key("a")).hit
    cache.store([key("a")], row(1))
    assert cache.get(key("a")).hit


def test_another_extractors_files_make_room_the_oldest_first(tmp_path):
    for age, name in ((300, "oldest"), (200, "old")):
        cache = opened(tmp_path, files=10, extractor=name)
        for number in range(4):
            cache.store([key(number)], row(number))
        about = next(p for p in tmp_path.glob("*/about.json") if name in p.read_text())
        if name == "oldest":
            oldest = about.parent
        os.utime(about, (time.time() - age,) * 2)
    cache = opened(tmp_path, files=10, extractor="new")
    cache.plan(6)
    assert not oldest.exists()
    assert len(list(tmp_path.glob("*/about.json"))) == 2
    cache.store(keys(6), rows(*range(6)))
    assert len(files(tmp_path)) == 10


def test_files_of_an_extractor_count_for_all_and_room_on_the_disk_limits_the_budget(tmp_path, monkeypatch):
    for name in ("first", "second"):
        opened(tmp_path, files=6, extractor=name).store(keys(4), rows(*range(4)))
    assert len(files(tmp_path)) == 6
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000_000}))
    assert opened(tmp_path).capacity(100) == 0


def test_a_full_disk_ends_the_storing_not_the_run(tmp_path, monkeypatch, caplog):
    cache = opened(tmp_path)
    cache.store([key("a")], row(1))

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "replace", full)
    cache.store([key("b"), key("c")], rows(2, 3))
    cache.store([key("d")], row(4))
    assert caplog.text.count("cannot be written") == 1
    assert len(files(tmp_path)) == 1
    assert cache.get(key("a")).hit


def test_what_killed_processes_wrote_or_removed_is_removed_what_others_write_now_is_not(tmp_path):
    old = opened(tmp_path, extractor="old")
    old.store([key("a")], row(1))
    aside = old._path.rename(tmp_path / f"removed-{'0' * 32}")
    own = opened(tmp_path)._path
    name = f"{'1' * 32}-0.tmp"
    old, fresh, users = own / "00" / f"aa.{name}", own / "00" / f"bb.{name}", own / "00" / "notes.tmp"
    for path in (old, fresh, users):
        path.write_bytes(folders.MAGIC[:5])
    for path in (old, users):
        os.utime(path, (time.time() - 7200,) * 2)
    opened(tmp_path)
    assert [path.exists() for path in (aside, old, fresh, users)] == [False, False, True, True]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache\.folder .*file"):
        opened(tmp_path / "file")


def test_a_cache_that_is_deleted_while_in_use_is_filled_again(tmp_path):
    cache = opened(tmp_path / "cache")
    cache.store([key("a")], row(1))
    shutil.rmtree(tmp_path / "cache")
    assert not cache.get(key("a")).hit
    assert cache.capacity(0) >= 0
    cache.store([key("a")], row(1))  # finds out
    cache.store([key("b")], row(2))
    assert hits(cache, key("a"), key("b")) == [False, True]


def test_opening_and_counting_while_another_process_removes_is_no_error(tmp_path, monkeypatch):
    iterdir, listdir = Path.iterdir, os.listdir

    def vanishing(folder):
        if len(folder.name) == 2:
            raise FileNotFoundError(2, "No such file or directory")
        return iterdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", vanishing)
        cache = opened(tmp_path)
        cache.store([key("a")], row(1))
        assert cache.get(key("a")).hit
    monkeypatch.setattr(folders.os, "listdir", lambda path: shutil.rmtree(tmp_path, True) or listdir(path))
    assert cache.capacity(10 * FILE) >= 0


def removed_by_another(folder):
    """What a process does that makes room: the folder moves aside, then it is deleted."""
    with contextlib.suppress(FileNotFoundError):
        aside = folder.rename(folder.with_name(f"removed-{'1' * 32}"))
        shutil.rmtree(aside)


def removed_and_made_again(folder):
    removed_by_another(folder)
    opened(folder.parent)


def cleaned_by_another(folder):
    """What a process does that opens the cache: it deletes what a killed one moved aside."""
    shutil.rmtree(folder.with_name(f"removed-{'0' * 32}"), ignore_errors=True)


@pytest.mark.parametrize("act", [removed_by_another, removed_and_made_again, cleaned_by_another])
def test_other_processes_may_remove_folders_at_any_moment(act, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_PARTS", sorted({k.key.hex()[:2] for k in (key("a"), *keys(4))}))  # faster
    for number in itertools.count():
        place = tmp_path / str(number)
        folder = opened(place, files=4)._path
        other, killed = (opened(place, files=4, extractor=name) for name in ("other", "killed"))
        other.store(keys(4), rows(*range(4)))
        killed._path.rename(place / f"removed-{'0' * 32}")
        with acting_before_call(number, place, partial(act, folder), monkeypatch) as acted:
            cache = opened(place, files=4)
            assert cache.capacity(4) >= 0
            cache.store([key("a")], row(1))
            cache.stored()
        cache = opened(place)
        cache.store([key("a")], row(1))
        assert hits(cache, key("a")) == [True], number
        if not acted:
            break
    assert number > 30


def test_a_folder_that_makes_room_goes_as_a_whole_with_what_is_written_to_it_just_now(tmp_path, monkeypatch):
    old = opened(tmp_path, files=4, extractor="old")
    old.store(keys(4), rows(*range(4)))
    delete = folders._delete

    def with_a_late_writer(path):
        (old._path / "00").mkdir(parents=True, exist_ok=True)  # what open files of it would be written to
        old.store([key("late")], row(9))
        delete(path)

    monkeypatch.setattr(folders, "_delete", with_a_late_writer)
    opened(tmp_path, files=4, extractor="new").plan(4)
    assert all((path / "about.json").is_file() for path in tmp_path.iterdir())  # nothing uncounted is left


def users_photos(folder, name, about):
    """A folder of the user's whose name, and a file of whose, could be the cache's."""
    path = folder / name / "00" / ("a" * 30)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a photograph")
    path.with_name("b.jpg").write_bytes(b"another")
    if about is not None:
        (folder / name / "about.json").write_text(about)


@pytest.mark.parametrize("about", [None, '{"file_bytes": 68, "identity": "mine"}', '["about me"]'])
@pytest.mark.parametrize(
    "name", ["removed-photos", f"removed-{'0' * 32}", "faces", "0123456789abcdef", "its own", "a link"]
)
def test_a_users_folder_that_the_cache_lives_in_keeps_everything(tmp_path, name, about):
    if name == "its own":
        opened(tmp_path / "elsewhere")
        name = next((tmp_path / "elsewhere").iterdir()).name
    mydata = tmp_path / "mydata"
    users_photos(mydata if name != "a link" else tmp_path, "faces" if name == "a link" else name, about)
    if name == "a link":
        (mydata / "0123456789abcdef").mkdir(parents=True)
        (mydata / "0123456789abcdef" / "00").symlink_to(tmp_path / "faces" / "00")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with contextlib.suppress(UserError):
        cache = opened(mydata, files=4)
        cache.plan(4)
        cache.store(keys(4), rows(*range(4)))
    assert {path: path.read_bytes() for path in before if path.exists()} == before


HOSTILE = {
    **{str(size): json.dumps({"file_bytes": size}) for size in (10**4000, -(10**400), 1e308, math.nan, [[1]])},
    "endless digits": '{"file_bytes": ' + "9" * 5000 + "}", "nested": '{"identity":' + "[" * 100_000,
    "a lone surrogate": '{"identity": "\\ud800"}', "an identity that is a number": '{"identity": 5}',
    "a list": "[]", "a long file": " " * 2_000_000, "not text": "\udcff",
}  # fmt: skip


@pytest.mark.parametrize("identity", [False, True], ids=["alone", "with an identity"])
@pytest.mark.parametrize("about", [*HOSTILE, "a pipe", "a folder", "a link"])
def test_what_about_json_says_of_sizes_is_not_used(tmp_path, about, identity):
    """Only entries that prove to be ours count and are removed, whatever `about.json` says."""
    old = opened(tmp_path, extractor="old")
    old.store([key("a")], row(1))
    path = old._path / "about.json"
    own = json.loads(path.read_text())
    path.unlink()
    if about == "a pipe":
        os.mkfifo(path)
    elif about == "a folder":
        path.mkdir()
    elif about == "a link":
        path.symlink_to(path)
    else:
        text = HOSTILE[about]
        if identity and text.endswith("}") and '"identity"' not in text:
            text = f'{text[:-1]}, "identity": {json.dumps(own["identity"])}}}'
        path.write_text(text, errors="surrogateescape")
    (old._path / "00").mkdir(exist_ok=True)
    (old._path / "00" / "mine.txt").write_text("mine")
    cache = opened(tmp_path, files=4)
    assert folders.size_of(old._path) == FILE
    assert 0 <= cache.capacity(4) <= 4 * FILE
    cache.store([key("b")], row(2))
    assert hits(cache, key("b")) == [True]
    assert (old._path / "00" / "mine.txt").read_text() == "mine"


def test_an_extractors_folder_with_a_file_of_the_users_makes_no_room(tmp_path, caplog):
    old = opened(tmp_path, files=4, extractor="old")
    old.store(keys(4), rows(*range(4)))
    (old._path / "notes.txt").write_text("mine")
    opened(tmp_path, files=4, extractor="new").plan(4)
    assert (old._path / "notes.txt").read_text() == "mine"
    assert "notes.txt" in caplog.text


@pytest.mark.parametrize("written", [None, 0, 10, 1000], ids=["nothing", "empty", "beginning", "whole"])
def test_folder_is_still_the_caches_whenever_the_process_that_made_it_was_killed(written, tmp_path):
    made = opened(tmp_path)._path
    (made / "about.json").unlink()
    left = made / ".roiseg-abc"
    left.mkdir()
    if written is not None:
        (left / ".about").write_text(_about(left)[:written])
    opened(tmp_path)
    assert (made / "about.json").is_file()


@pytest.mark.parametrize("name", ["mine.txt", ".roiseg-mine/photo.jpg", "photos/a.jpg", "00/mine.txt"])
def test_folder_with_a_file_of_the_users_is_not_the_caches(name, tmp_path):
    made = opened(tmp_path)._path
    (made / "about.json").unlink()
    (made / name).parent.mkdir(exist_ok=True)
    (made / name).write_text("mine")
    with pytest.raises(UserError, match="contains other files"):
        opened(tmp_path)
    assert (made / name).read_text() == "mine"
