"""A small COCO as it is distributed, made by the test, and what `prepare` makes of it."""

from __future__ import annotations

import json
import random
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
