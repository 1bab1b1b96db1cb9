"""Archives from a web server: interrupted, damaged, complete."""

import random

import pytest
from small_coco import contents, make, md5, serve_coco, zip_of

from roiseg.common.errors import UserError
from roiseg.data.prepare.download import extract, fetch

DATA = random.Random(0).randbytes(300_000)


@pytest.mark.parametrize(
    ("part", "cuts", "ranges", "gets"),
    [
        (DATA[:120_000], [], True, [("bytes=120000-", 180_000)]),
        (DATA, [], True, [("bytes=300000-", 0)]),
        (b"", [100_000, 50_000], True, [(None, 100_000), ("bytes=100000-", 50_000), ("bytes=150000-", 150_000)]),
        (b"x" * 120_000, [], False, [("bytes=120000-", 300_000)]),
    ],
    ids=["resumed", "complete, not verified", "connections lost", "ranges ignored"],
)  # fmt: skip
def test_no_byte_is_sent_twice_unless_ranges_are_ignored(web, tmp_path, part, cuts, ranges, gets):
    web.files["/a.zip"] = DATA
    web.cuts, web.ranges = cuts, ranges
    (tmp_path / "a.zip.part").write_bytes(part)
    for _ in range(2):
        fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
        assert (tmp_path / "a.zip").read_bytes() == DATA
        assert web.gets("a.zip") == gets
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["a.zip"]


def test_download_gives_up_and_says_how_to_resume(web, tmp_path, monkeypatch):
    monkeypatch.setattr("roiseg.data.prepare.download.ATTEMPTS", 2)  # each further one waits twice as long
    web.files["/a.zip"] = DATA
    web.cuts = [90_000, 0, 0]
    with pytest.raises(UserError, match=r"stopped at 0\.1 MB .*run the same command again"):
        fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip.part").read_bytes() == DATA[:90_000]


def test_wrong_checksum_removes_the_download(web, tmp_path):
    web.files["/a.zip"] = DATA
    with pytest.raises(UserError, match=f"md5 {md5(DATA)} instead of {'0' * 32}"):
        fetch(f"{web.url}/a.zip", tmp_path / "a.zip", "0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "train2017/../../evil.txt", "..\\evil.txt", "c:evil.txt"]
)
def test_archive_with_a_path_that_leaves_its_folder_is_refused(tmp_path, name):
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(zip_of({"train2017/good.jpg": b"good", name: b"evil"}))
    with pytest.raises(UserError, match="unsafe member"):
        extract(archive, {"train2017/good.jpg": tmp_path / "in" / "out" / "good.jpg"})
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_archive_that_is_broken_or_lacks_a_member(tmp_path):
    archive = tmp_path / "a.zip"
    damaged = bytearray(zip_of({"a": b"1" * 1000}))
    damaged[500] = ord("2")
    for content, message in (
        (zip_of({"a": b"1"}), "lacks 1 of 2 members, the first b"),
        (b"PK nothing", "not a valid zip"),
        (damaged, "not a valid zip"),
    ):
        archive.write_bytes(content)
        with pytest.raises(UserError, match=message):
            extract(archive, {"a": tmp_path / "a", **({"b": tmp_path / "b"} if "lacks" in message else {})})
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_everything_from_the_web(web, source, layout, tmp_path):
    sums = serve_coco(web, source)
    web.cuts = [1000]
    prepared = make(layout.root, None, base_url=web.url, md5=sums)
    assert len(prepared.made) == 8
    make(tmp_path / "other", source, images="copy")
    expected = {name: content for name, (_, content) in contents(tmp_path / "other").items()}
    assert {name: content for name, (_, content) in contents(layout.root).items()} == expected
    assert not layout.downloads.exists()

    web.requests.clear()
    assert make(layout.root, None, base_url=web.url, md5=sums).made == []
    assert web.requests == []

    gone = next(layout.images("val2017").iterdir())
    gone.unlink()
    assert make(layout.root, None, base_url=web.url, md5=sums).made == [layout.images("val2017")]
    assert gone.is_file()
    assert {path for method, path, *_ in web.requests if method == "GET"} == {"/zips/val2017.zip"}


def test_full_disk_is_found_before_the_download(web, source, layout):
    sums = serve_coco(web, source)
    web.claimed_size = 10**15
    with pytest.raises(UserError, match=r"needs \d{7}\.\d GB, .* has \d+\.\d GB free"):
        make(layout.root, None, base_url=web.url, md5=sums)
    assert all(method == "HEAD" for method, *_ in web.requests)
    assert not layout.root.exists()
