from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from roiseg.common.errors import UserError
from roiseg.data.coco import SPLITS, Layout, Prepared, prepare
from roiseg.data.coco.check import check_layout, check_persons
from roiseg.data.coco.download import fetch
from roiseg.data.coco.subsets import person_only, subset
from roiseg.data.coco.unzip import extract

NO_MD5 = dict.fromkeys(("annotations", *SPLITS), "0" * 32)


# ---------------------------------------------------------------- a small COCO, made by the test


def coco_dict(images: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    records = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48, "license": 1}
        for i in range(3, 3 + images)
    ]
    annotations: list[dict[str, Any]] = []
    for image in records:
        for _ in range(rng.randint(0, 4)):
            annotation = {
                "id": 1000 + len(annotations),
                "image_id": image["id"],
                "category_id": rng.choice([1, 1, 18]),
                "iscrowd": int(rng.random() < 0.2),
                "bbox": [round(rng.uniform(0, 30), 2) for _ in range(4)],
                "area": 12.34,
                "segmentation": [[1.5, 2, 3.25, 4, 5, 6.125]],
            }
            annotations.append(annotation)
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 1, "name": "any"}],
        "images": records,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


def write_coco(root: Path, train: int = 30, val: int = 9) -> Path:
    for split, images in zip(SPLITS, (train, val), strict=True):
        coco = coco_dict(images, seed=images)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
        (root / split).mkdir(exist_ok=True)
        for image in coco["images"]:
            (root / split / image["file_name"]).write_bytes(random.Random(image["id"]).randbytes(2000))
    return root


def reference(coco: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    persons = []
    for annotation in coco["annotations"]:
        if annotation["category_id"] == 1 and annotation["iscrowd"] == 0:
            persons.append(annotation)
    return [i for i in coco["images"] if any(a["image_id"] == i["id"] for a in persons)], persons


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def make(output: Path, source: Path | None, **changes: Any) -> Prepared:
    settings: dict[str, Any] = {
        "sizes": [8, 3], "seed": 0, "images": "link", "base_url": "http://127.0.0.1:9", "md5": NO_MD5,
    }  # fmt: skip
    return prepare(output, source, **{**settings, **changes})


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in root.rglob("*")
        if p.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data", (8, 3))


# ---------------------------------------------------------------- filtering and subsets


def test_keeps_exactly_persons_that_are_no_crowd() -> None:
    coco = coco_dict(60, seed=5)
    before = json.dumps(coco)
    made = person_only(coco, "file")
    images, persons = reference(coco)
    assert (made["images"], made["annotations"]) == (images, persons)
    assert 0 < len(images) < 60
    assert (made["info"], made["licenses"]) == (coco["info"], coco["licenses"])
    assert made["categories"] == [{"id": 1, "name": "person"}]
    assert json.dumps(coco) == before


def test_subsets_are_nested_deterministic_and_depend_on_the_seed() -> None:
    full = person_only(coco_dict(200, seed=1), "file")
    ids = {
        (size, seed): {i["id"] for i in subset(full, size, seed)["images"]}
        for size in (50, 10)
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert len(ids[10, seed]) == 10
        assert len(ids[50, seed]) == 50
        assert ids[10, seed] < ids[50, seed]
    assert ids[50, 0] != ids[50, 1]
    shuffled = {**full, "images": full["images"][::-1]}
    assert {i["id"] for i in subset(shuffled, 50, 0)["images"]} == ids[50, 0], (
        "order of the file must not matter"
    )
    small = subset(full, 10, 0)
    assert small["annotations"] == [a for a in full["annotations"] if a["image_id"] in ids[10, 0]]
    assert subset(full, 10_000, 0) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "cat"}]}, "category 1 is not `person`"),
        ({"images": []}, "is of image 5, not in `images`"),
        ({"annotations": None}, "no list `annotations`"),
        ({"annotations": [{"id": 7}]}, "no proper field 'category_id'"),
        ({"annotations": []}, "no image shows a person"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        person_only({**coco_dict(20, seed=3), **change}, "some.json")
    assert str(caught.value).startswith("some.json")


# ---------------------------------------------------------------- from a folder


def test_six_files_from_a_folder(source: Path, layout: Layout) -> None:
    prepared = make(layout.root, source)
    assert len(prepared.reports) == 6
    for split in SPLITS:
        images, persons = reference(read(source / "annotations" / f"instances_{split}.json"))
        full, eight, three = (read(layout.annotations(split, size)) for size in (None, 8, 3))
        assert (full["images"], full["annotations"]) == (images, persons)
        names = [{i["file_name"] for i in coco["images"]} for coco in (three, eight, full)]
        assert names[0] <= names[1] <= names[2]
        assert [len(n) for n in names] == [3, min(8, len(images)), len(images)]
        assert layout.images(split).is_symlink()
        assert all((layout.images(split) / name).is_file() for name in names[2])
    assert sorted(p.name for p in (layout.root / "annotations").iterdir()) == sorted(
        r.path.name for r in prepared.reports
    )


def test_second_run_changes_nothing_and_another_seed_only_the_subsets(source: Path, layout: Layout) -> None:
    make(layout.root, source)
    before = contents(layout.root)
    assert make(layout.root, source).made == []
    assert make(layout.root, None).made == [], "complete: nothing to download, so no network is needed"
    assert contents(layout.root) == before
    made = {path.name for path in make(layout.root, source, seed=1).made}
    assert layout.annotations("train2017", 3).name in made
    assert all(re.search(r"_\d+\.json$", name) for name in made)


def test_what_is_missing_or_damaged_is_made_again(source: Path, layout: Layout) -> None:
    make(layout.root, source)
    before = contents(layout.root)
    layout.annotations("train2017", 3).unlink()
    full = layout.annotations("val2017")
    full.write_bytes(full.read_bytes()[:-20])
    made = make(layout.root, source).made
    assert set(made) == {layout.annotations("train2017", 3), full}
    assert {k: v[1] for k, v in contents(layout.root).items()} == {k: v[1] for k, v in before.items()}


def test_copy_takes_only_images_with_persons_and_resumes(source: Path, layout: Layout) -> None:
    make(layout.root, source)  # links, which copying must not write through
    original = contents(source)
    make(layout.root, source, images="copy")
    assert contents(source) == original
    folder = layout.images("train2017")
    assert not folder.is_symlink()
    images, _ = reference(read(source / "annotations" / "instances_train2017.json"))
    assert {p.name for p in folder.iterdir()} == {i["file_name"] for i in images}
    first, second, *_rest = sorted(folder.iterdir())
    first.unlink()
    second.write_bytes(b"cut")
    kept = {name: stamp for name, (stamp, _) in contents(folder).items() if name != second.name}
    make(layout.root, source, images="copy")
    after = contents(folder)
    assert all(after[name][0] == stamp for name, stamp in kept.items())
    assert after[first.name][1] == (source / "train2017" / first.name).read_bytes()
    assert after[second.name][1] == (source / "train2017" / second.name).read_bytes()


def test_images_may_lie_under_images_and_in_the_output_itself(source: Path) -> None:
    (source / "images").mkdir()
    for split in SPLITS:
        (source / split).rename(source / "images" / split)
    for mode in ("link", "copy"):
        make(source, source, images=mode)
        assert not (source / "images" / "train2017").is_symlink()
        assert len(list((source / "images" / "train2017").iterdir())) == 30


def test_missing_image_is_named_before_anything_is_written(source: Path, layout: Layout) -> None:
    images, _ = reference(read(source / "annotations" / "instances_train2017.json"))
    for image in images[2:4]:
        (source / "train2017" / image["file_name"]).unlink()
    with pytest.raises(UserError, match=rf"2 of {len(images)} images .*first {images[2]['file_name']}"):
        make(layout.root, source)
    assert not layout.root.exists()
    assert len(make(layout.root, source, images="skip").made) == 6


def test_incomplete_folder_of_images_is_not_replaced_by_a_link(source: Path, layout: Layout) -> None:
    layout.images("train2017").mkdir(parents=True)
    (layout.images("train2017") / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="images=copy"):
        make(layout.root, source)
    assert (layout.images("train2017") / "mine.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("category_id", 18, "category_id 18"),
        ("iscrowd", 1, "is a crowd"),
        ("image_id", 10**6, "image 1000000"),
        ("area", 0.5, "annotations differ"),
    ],
)
def test_check_finds_what_is_wrong(source: Path, layout: Layout, key: str, value: Any, message: str) -> None:
    make(layout.root, source)
    path = layout.annotations("train2017", 8)
    coco = read(path)
    coco["annotations"][-1][key] = value
    path.write_text(json.dumps(coco))
    with pytest.raises(UserError, match=message) as caught:
        check_layout(layout, with_images=True)
    assert str(path) in str(caught.value)


def test_check_refuses_a_file_name_that_leaves_the_folder() -> None:
    coco = person_only(coco_dict(20, seed=3), "file")
    coco["images"][0] = {**coco["images"][0], "file_name": "../x.jpg"}
    with pytest.raises(UserError, match=r"\.\./x\.jpg"):
        check_persons(coco, "file")


# ---------------------------------------------------------------- a web server


@dataclass
class Web:
    """What the server serves and how it misbehaves; `requests` holds (method, path, range, bytes sent)."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # the next answers stop after so many bytes
    claimed_size: int | None = None
    stall_at: int | None = None  # send so many bytes of train2017.zip, then nothing until `resume` is set
    resume: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    requests: list[tuple[str, str, str | None, int]] = field(default_factory=list)

    def gets(self, ending: str) -> list[tuple[str | None, int]]:
        return [
            (r, sent) for method, path, r, sent in self.requests if method == "GET" and path.endswith(ending)
        ]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content = state.files.get(self.path)
            asked = self.headers["Range"]
            if content is None:
                state.requests.append((self.command, self.path, asked, 0))
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(content):
                state.requests.append((self.command, self.path, asked, 0))
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(state.claimed_size or len(body)))
            self.end_headers()
            if self.command == "GET":
                body = body[: state.cuts.pop(0)] if state.cuts else body
                if state.stall_at and self.path.endswith("train2017.zip"):
                    self.wfile.write(body[: state.stall_at])
                    state.resume.wait(30)
                    return
                self.wfile.write(body)
            state.requests.append((self.command, self.path, asked, len(body) if self.command == "GET" else 0))

        do_GET = do_HEAD = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Keep requests off the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        state.resume.set()
        server.shutdown()
        thread.join()


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def serve_coco(web: Web, source: Path) -> dict[str, str]:
    """Serve `source` as COCO's archives; returns their checksums."""
    sums = {}
    for name in ("annotations", *SPLITS):
        members = {f"{name}/{path.name}": path.read_bytes() for path in sorted((source / name).iterdir())}
        place = "annotations/annotations_trainval2017" if name == "annotations" else f"zips/{name}"
        web.files[f"/{place}.zip"] = zip_of(members)
        sums[name] = md5(web.files[f"/{place}.zip"])
    return sums


DATA = random.Random(0).randbytes(300_000)


def test_download_resumes_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = DATA
    (tmp_path / "a.zip.part").write_bytes(DATA[:120_000])
    fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert web.gets("a.zip") == [("bytes=120000-", 180_000)], "no byte is sent twice"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert len(web.requests) == 1


def test_download_that_is_complete_but_not_verified(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = DATA
    (tmp_path / "a.zip.part").write_bytes(DATA)
    fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert web.gets("a.zip") == [("bytes=300000-", 0)]


def test_download_survives_lost_connections(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = DATA
    web.cuts = [100_000, 50_000]
    fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert web.gets("a.zip") == [(None, 100_000), ("bytes=100000-", 50_000), ("bytes=150000-", 150_000)]


def test_download_starts_over_where_ranges_are_ignored(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = DATA
    web.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 120_000)
    fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert web.gets("a.zip") == [("bytes=120000-", 300_000)]


def test_download_gives_up_and_says_how_to_go_on(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roiseg.data.coco.download.ATTEMPTS", 2)  # each further one waits twice as long
    web.files["/a.zip"] = DATA
    web.cuts = [90_000, 0, 0]
    with pytest.raises(UserError, match=r"broke off at 0\.1 MB .*run the same command again"):
        fetch(f"{web.url}/a.zip", tmp_path / "a.zip", md5(DATA))
    assert (tmp_path / "a.zip.part").read_bytes() == DATA[:90_000]


def test_wrong_checksum_removes_the_download(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = DATA
    with pytest.raises(UserError, match=f"md5 {md5(DATA)} instead of {'0' * 32}"):
        fetch(f"{web.url}/a.zip", tmp_path / "a.zip", "0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "train2017/../../evil.txt", "..\\evil.txt", "c:evil.txt"]
)
def test_archive_with_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(zip_of({"train2017/good.jpg": b"good", name: b"evil"}))
    with pytest.raises(UserError, match="unsafe member"):
        extract(archive, {"train2017/good.jpg": tmp_path / "in" / "out" / "good.jpg"})
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_archive_that_is_broken_or_lacks_a_member(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of({"a": b"1"}))
    with pytest.raises(UserError, match="lacks 1 of 2 members, the first b"):
        extract(archive, {"a": tmp_path / "a", "b": tmp_path / "b"})
    archive.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="not a proper zip"):
        extract(archive, {"a": tmp_path / "a"})
    damaged = bytearray(zip_of({"a": b"1" * 1000}))
    damaged[500] = ord("2")
    archive.write_bytes(damaged)
    with pytest.raises(UserError, match="not a proper zip"):
        extract(archive, {"a": tmp_path / "a"})
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_everything_from_the_web(web: Web, source: Path, layout: Layout, tmp_path: Path) -> None:
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


def test_full_disk_is_found_before_the_download(web: Web, source: Path, layout: Layout) -> None:
    sums = serve_coco(web, source)
    web.claimed_size = 10**15
    with pytest.raises(UserError, match=r"needs \d{7}\.\d GB, .* has \d+\.\d GB free"):
        make(layout.root, None, base_url=web.url, md5=sums)
    assert all(method == "HEAD" for method, *_ in web.requests)
    assert not layout.root.exists()


# ---------------------------------------------------------------- the command


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "ROISEG_"))}
    return subprocess.run(
        [sys.executable, "-m", "roiseg.prepare", *arguments],
        cwd=cwd, env={**environment, "no_proxy": "127.0.0.1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def assert_refused(done: subprocess.CompletedProcess[str], cwd: Path, *fragments: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("roiseg: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    assert not (cwd / "data").exists()


@pytest.mark.slow
def test_command_from_a_folder(source: Path, tmp_path: Path) -> None:
    first = run(tmp_path, "source=coco", "sizes=[3,8]")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("made data/") == 8
    assert re.search(r"instances_train2017_person_only_no_crowd_8\.json +8 +\d+ +\d\.\d\d ", first.stdout)
    before = contents(tmp_path / "data")
    second = run(tmp_path, "source=coco", "sizes=[8,3]")
    assert second.returncode == 0, second.stderr
    assert "already there" in second.stdout
    assert "made" not in second.stdout
    assert contents(tmp_path / "data") == before
    assert {p.name for p in tmp_path.iterdir()} == {"coco", "data", "outputs"}
    assert not any(p.is_file() for p in (tmp_path / "outputs").rglob("*"))


@pytest.mark.slow
def test_command_from_the_web(web: Web, source: Path, tmp_path: Path) -> None:
    sums = serve_coco(web, source)
    overrides = [
        f"base_url={web.url}",
        "sizes=[8,3]",
        *(f"md5.{name}={value}" for name, value in sums.items()),
    ]
    wrong = run(tmp_path, *overrides, f"md5.annotations={'0' * 32}")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert f"md5 {sums['annotations']} instead of {'0' * 32}" in wrong.stderr
    assert not any(p.is_file() for p in (tmp_path / "data").rglob("*"))
    done = run(tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    assert f"downloading {web.url}/zips/train2017.zip" in done.stdout
    assert done.stdout.count("made data/") == 8


@pytest.mark.slow
def test_of_two_commands_at_once_one_downloads_and_the_other_waits(
    web: Web, source: Path, tmp_path: Path
) -> None:
    sums = serve_coco(web, source)
    overrides = [
        f"base_url={web.url}",
        "sizes=[8,3]",
        *(f"md5.{name}={value}" for name, value in sums.items()),
    ]
    command = [sys.executable, "-m", "roiseg.prepare", *overrides]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "already there: everything in data is complete" in "".join(said)
    assert len(web.gets("/zips/train2017.zip")) == 1
    assert not [path for path in (tmp_path / "data").iterdir() if path.name not in ("images", "annotations")]


@pytest.mark.slow
def test_command_that_was_killed_goes_on_where_it_stopped(web: Web, source: Path, tmp_path: Path) -> None:
    sums = serve_coco(web, source)
    overrides = [
        f"base_url={web.url}",
        "sizes=[8,3]",
        *(f"md5.{name}={value}" for name, value in sums.items()),
    ]
    part = tmp_path / "data" / "downloads" / "train2017.zip.part"
    web.stall_at = 20_000
    with subprocess.Popen([sys.executable, "-m", "roiseg.prepare", *overrides], cwd=tmp_path) as process:
        try:
            end = time.monotonic() + 30
            while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
                time.sleep(0.02)
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
def test_command_without_network_names_host_and_way_out(tmp_path: Path) -> None:
    done = run(tmp_path, "base_url=http://nowhere.invalid")
    assert_refused(done, tmp_path, "nowhere.invalid", "source=DIR")


@pytest.mark.slow
def test_command_names_what_the_source_lacks(source: Path, tmp_path: Path) -> None:
    assert_refused(run(tmp_path, "source=absent"), tmp_path, "source folder not found: absent")
    shutil.rmtree(source / "val2017")
    (source / "annotations" / "instances_val2017.json").unlink()
    done = run(tmp_path, "source=coco")
    assert_refused(
        done, tmp_path, "annotations/instances_val2017.json", "val2017/ (or images/val2017/)", "both splits"
    )


@pytest.mark.slow
def test_command_names_line_and_column_of_broken_json(source: Path, tmp_path: Path) -> None:
    path = source / "annotations" / "instances_train2017.json"
    path.write_text('{"images": [],\n "annotations": [1, }')
    assert_refused(run(tmp_path, "source=coco"), tmp_path, "instances_train2017.json", "line 2 column 21")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [("sizes=[100,0]", "sizes must be"), ("images=move", "link, copy, skip"), ("seeed=1", "nearest: seed")],
)
def test_command_refuses_wrong_settings(tmp_path: Path, override: str, message: str) -> None:
    assert_refused(run(tmp_path, "source=coco", override), tmp_path, message)


@pytest.mark.realdata
@pytest.mark.skipif(
    "ROISEG_REALDATA" not in os.environ, reason="ROISEG_REALDATA (real COCO images) is not set"
)
def test_real_images(tmp_path: Path) -> None:
    real = Path(os.environ["ROISEG_REALDATA"]) / "coco128_person"
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for split in SPLITS:
        file = f"annotations/instances_{split}"
        shutil.copy(real / f"{file}_person_only_no_crowd.json", tmp_path / "coco" / f"{file}.json")
        (tmp_path / "coco" / split).symlink_to(real / "images" / split)
    prepared = make(tmp_path / "data", tmp_path / "coco", sizes=[500, 100])
    counts = [(report.images, report.persons) for report in prepared.reports]
    assert counts == [(46, 203)] * 3 + [(15, 51)] * 3
    for split in SPLITS:
        made = read(Layout(tmp_path / "data", ()).annotations(split))
        original = read(real / "annotations" / f"instances_{split}_person_only_no_crowd.json")
        assert made == original
