"""A small COCO as it is distributed, in a folder and on a web server, and what `prepare` makes of it."""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from roiseg.data.prepare.build import prepare
from roiseg.data.prepare.persons import SPLITS, Prepared

NO_MD5 = dict.fromkeys(("annotations", *SPLITS), "0" * 32)


def coco_dict(images: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    records = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48, "license": 1}
        for i in range(3, 3 + images)
    ]
    annotations: list[dict[str, Any]] = []
    for image in records:
        for _ in range(rng.randint(0, 4)):
            annotations.append({
                "id": 1000 + len(annotations), "image_id": image["id"], "category_id": rng.choice([1, 1, 18]),
                "iscrowd": int(rng.random() < 0.2), "bbox": [round(rng.uniform(0, 30), 2) for _ in range(4)],
                "area": 12.34, "segmentation": [[1.5, 2, 3.25, 4, 5, 6.125]],
            })  # fmt: skip
    return {
        "info": {"year": 2017}, "licenses": [{"id": 1, "name": "any"}], "images": records, "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }  # fmt: skip


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
    persons = [a for a in coco["annotations"] if a["category_id"] == 1 and a["iscrowd"] == 0]
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


@contextmanager
def served() -> Iterator[Web]:
    """A server on a free port of this machine."""
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content, asked = state.files.get(self.path, b""), self.headers["Range"]
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            body = content[start:]
            if not body:
                state.requests.append((self.command, self.path, asked, 0))
                self.send_error(416 if content else 404)
                return
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
