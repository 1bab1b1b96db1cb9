"""Mutate valid files of every input format: a reader must succeed or raise a UserError.

`python -m tools.fuzz CASES [SEED [FORMAT ...]]` spreads the cases over the formats and prints their counts,
and each failure once, with the seed of its case. Exit code 1 where there are any.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
import xxhash
import yaml

from roiseg import report
from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.config.entry import user_message
from roiseg.config.evaluation_setup import trusted_node, trusted_values
from roiseg.data.analysis import load_or_make_analysis
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.images import read_image
from roiseg.data.prepare.persons import person_only
from roiseg.data.scene_composer import SceneComposer
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.disk import DiskCache
from roiseg.geometry.transform import Letterbox
from roiseg.inference.box_files import open_boxes
from roiseg.inference.checkpoint import load_model, read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.inference.model import OnnxModel
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.predictor import Predictor
from roiseg.inference.sources.source import SourceImage
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import seal
from roiseg.reporting import tables as table
from roiseg.reporting.compare import compare
from roiseg.reporting.runs import read_runs
from roiseg.reporting.variants import check_comparable, find_variants
from roiseg.training.resume import check_resumable, checkpoint_progress

SLOW = 20.0  # seconds that no reader takes
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 1.5, -0.5, 1e39, -1e39, 1e308, 1e-46, math.inf, math.nan, 2**31, 2**63,
    10**400, "", "a", "1", "é", "\udcff", "[/x]", "\x00", "../x", "${x}", "a" * 300, [], [[]], [1],
    [1, 2, 3, 4], ["a"], {}, {"a": 1}, {"_target_": "os.system"},
]  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A file format: `make` writes a valid one and gives its path, `spoil` mutates it, `read` reads it."""

    make: Callable[[Path], Path]
    spoil: Callable[[Path, random.Random], None]
    read: Callable[[Path], object]


@dataclass
class Outcome:
    """How often files were read and refused, and what else happened: by its place, the first case."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def fail(self, what: str, seed: str) -> None:
        """Note a failure, and tell of it at once where it is new."""
        if what not in self.failures:
            self.failures[what] = seed
            sys.stderr.write(f"{seed}: {what}\n")


# --- mutations --------------------------------------------------------------------------------------


def spoil_bytes(path: Path, draw: random.Random) -> None:
    """Replace, remove, repeat or add bytes, or cut the file."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(content) + 1)
        if draw.random() < 0.5:  # most formats are decided at the start
            start = min(start, draw.randrange(200))
        end = min(len(content), start + draw.choice([0, 1, 1, 2, 4, 30]))
        new = draw.choice(
            [
                b"",
                draw.randbytes(1),
                draw.randbytes(4),
                bytes(content[start:end]) * 2,
                b"\xff",
                b"-",
                b"9" * 30,
            ]
        )
        content[start:end] = new
    if draw.random() < 0.1:
        del content[draw.randrange(len(content) + 1) :]
    path.write_bytes(content)


def spoil_png(path: Path, draw: random.Random) -> None:
    """Change bytes of the chunks, mostly with checksums that agree, or of the whole file."""
    if draw.random() < 0.2:
        spoil_bytes(path, draw)
        return
    content, chunks, start = path.read_bytes(), [], 8
    while start < len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        chunks.append(bytearray(content[start + 4 : end]))
        start = end + 4
    for _ in range(draw.randint(1, 3)):
        chunk = draw.choice(chunks[:1] + chunks)
        place = draw.randrange(4 if len(chunk) > 4 and draw.random() < 0.9 else 0, len(chunk))
        chunk[place] = draw.choice([draw.randrange(256), 0, 1, 255])
    if draw.random() < 0.2:
        chunks.insert(draw.randrange(len(chunks)), draw.choice(chunks))
    whole = ((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    path.write_bytes(content[:8] + b"".join(whole))


def changed(node: Any, draw: random.Random) -> Any:
    """Return a copy of nested lists and dicts with a few values replaced, removed or repeated."""
    content = [copy.deepcopy(node)]
    for _ in range(draw.randint(1, 2)):
        inner: Any = content
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(inner[key], (dict, list)) and inner[key] and draw.random() < 0.85:
                inner = inner[key]
                continue
            chance = draw.random()
            if chance < 0.15 and inner is not content:
                del inner[key]
            elif chance < 0.25 and isinstance(inner, list):
                inner.append(copy.deepcopy(inner[key]))
            elif chance < 0.3 and isinstance(inner, dict):
                inner[draw.choice(["x", "", "\udcff", "_target_", "a.b"])] = inner.pop(key)
            else:
                inner[key] = copy.deepcopy(draw.choice(JUNK))
            break
    return content[0]


def spoil_json(path: Path, draw: random.Random) -> None:
    """Change a value, or sometimes bytes."""
    if draw.random() < 0.2:
        spoil_bytes(path, draw)
    else:
        path.write_text(json.dumps(changed(json.loads(path.read_text()), draw)))


def spoil_words(path: Path, draw: random.Random) -> None:
    """Change words of a text, or sometimes bytes."""
    if draw.random() < 0.3:
        spoil_bytes(path, draw)
        return
    rows = [line.replace(",", " , ").split(" ") for line in path.read_text().splitlines()]
    for _ in range(draw.randint(1, 2)):
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = draw.choice(
            ["", "nan", "inf", "1e39", "-1", "0", "1e-46", "7", "0.4", "x", "1,2", "\0", '"', "9" * 400]
        )
    path.write_text("\n".join(" ".join(row).replace(" , ", ",") for row in rows))


def spoil_checkpoint(path: Path, draw: random.Random) -> None:
    """Change the description, another entry, or bytes."""
    if draw.random() < 0.15:
        spoil_bytes(path, draw)
        return
    content = torch.load(path, weights_only=True)
    if draw.random() < 0.85:
        content["roiseg"] = changed(content["roiseg"], draw)
    else:
        key = draw.choice(sorted(content))
        content[key] = copy.deepcopy(draw.choice(JUNK))
    torch.save(content, path)


def spoil_metadata(path: Path, draw: random.Random) -> None:
    """Change an entry of an ONNX file's metadata."""
    model = onnx.load(str(path))
    entry = draw.choice(model.metadata_props)
    try:
        entry.value = json.dumps(changed(json.loads(entry.value), draw))
    except ValueError:
        entry.value = str(draw.choice(JUNK)).encode("utf-8", "replace").decode()
    if draw.random() < 0.1:
        model.metadata_props.remove(entry)
    if draw.random() < 0.7:  # sealed again, as a deliberate change could be
        metadata = {prop.key: prop.value for prop in model.metadata_props}
        tensors = [tensor.name for tensor in (*model.graph.input, *model.graph.output)]
        onnx.helper.set_model_props(model, metadata | {"seal": seal(metadata, tensors)})
    path.write_bytes(model.SerializeToString())


def spoil_index(path: Path, draw: random.Random) -> None:
    """Change bytes, or a header's values with a checksum that agrees."""
    (file,) = path.parent.glob("index/*.index")
    if draw.random() < 0.5:
        spoil_bytes(file, draw)
        return
    content = file.read_bytes()
    start = content.index(b"{")
    length = int.from_bytes(content[start - 8 : start], "little")
    header = json.dumps(changed(json.loads(content[start : start + length]), draw)).encode()
    header += b" " * (-(start + len(header)) % 64)
    content = content[: start - 8] + len(header).to_bytes(8, "little") + header + content[start + length : -8]
    file.write_bytes(content + xxhash.xxh3_64(content).digest())


def spoil_run(path: Path, draw: random.Random) -> None:
    """Change one of a run's files."""
    name = draw.choice(["summary.json", "config.yaml", "instances.csv"])
    if name == "config.yaml" and draw.random() < 0.7:
        (path / name).write_text(yaml.safe_dump(changed(yaml.safe_load((path / name).read_text()), draw)))
    else:
        {".json": spoil_json, ".csv": spoil_words, ".yaml": spoil_bytes}[Path(name).suffix](path / name, draw)


# --- formats ----------------------------------------------------------------------------------------


def formats(folder: Path) -> dict[str, Format]:
    """Return all formats; slow inputs are created once, in `folder`."""
    from tests.helpers import make_onnx, tiny_coco
    from tests.run_folders import rois, write_run
    from tests.tiny_run import fit

    coco, detector = tiny_coco(folder / "coco"), make_onnx(folder / "tiny.onnx")
    fit(coco, detector, folder, [EpochCheckpoint(folder / "ckpt", [64, 64])], max_epochs=1)
    checkpoint = newest_checkpoint(folder / "ckpt")
    assert checkpoint is not None
    exported = folder / "exported.onnx"
    export_model(load_model(checkpoint), exported, ExportOptions(), None, [])
    picture, frame = read_image(coco.images / "a.jpg"), SourceImage("a", "a.jpg", 0, None, lambda: picture)
    sound = load_annotations(coco.json)
    description = read_checkpoint(checkpoint)["roiseg"]

    def copied(original: Path) -> Callable[[Path], Path]:
        return lambda place: Path(shutil.copy(original, place / original.name))

    def written(name: str, text: str) -> Callable[[Path], Path]:
        def write(place: Path) -> Path:
            (place / name).write_text(text)
            return place / name

        return write

    def predict(predictor: Predictor) -> None:
        predictor.set_image(picture)
        found = predictor.predict(np.array([[5, 5, 60, 70]], np.float32))
        assert len(found.to_coco(1)) == 1

    def read_model(path: Path) -> None:
        model = load_model(path)
        trusted_values(model.config, path)
        for key, module in (("tta", "roiseg.data.tta"), ("data.folds", "roiseg.data.folds")):
            trusted_node(model.config, key, module, path)
        predict(Predictor.from_checkpoint(path))
        check_resumable(path, description)
        checkpoint_progress(read_checkpoint(path))

    def read_exported(path: Path) -> None:
        file = OnnxFile(path)
        predict(Predictor(OnnxModel(file, file.extractor(str(detector), file.postprocess))))

    def make_index(place: Path) -> Path:
        path = copied(coco.json)(place)
        load_annotations(path, index_dir=place / "index")
        return path

    def read_index(path: Path) -> None:
        found = load_annotations(path, index_dir=path.parent / "index")
        assert found.ids.tolist() == sound.ids.tolist()
        assert np.array_equal(found.boxes, sound.boxes)
        read_annotations_of(found, path)

    def read_annotations(path: Path) -> None:
        read_annotations_of(load_annotations(path), path)

    def read_annotations_of(found: Any, path: Path) -> None:
        scenes = SceneComposer(found, path.parent, 1)
        for index in range(len(found)):
            scene = scenes.plain(index)
            assert np.isfinite(scene.boxes).all()
            for position in range(len(scene.outlines)):
                scene.outlines.rle(position)
            spec, transform = (
                TargetSpec("roi", (7, 9), 3, (64, 64)),
                Letterbox((64, 64)).fit(*found.size(index)),
            )
            boxes = transform.boxes(scene.boxes)[scene.eligible]
            rasterize_targets(spec, scene.outlines, scene.crowd, transform, boxes, scene.eligible)

    def read_persons(path: Path) -> None:
        person_only(read_json(path, "annotations"), str(path))

    def read_boxes(path: Path) -> None:
        boxes = open_boxes(path)
        if boxes.lists(frame.name) and (given := boxes.find(frame, (80, 100))) is not None:
            assert np.isfinite(given.boxes).all() and np.isfinite(given.scores).all()
            predictor.set_image(picture)
            predictor.predict(given.boxes[:5], given.scores[:5])

    predictor = Predictor.from_checkpoint(checkpoint)
    key, row = CacheKey.of("a", "b"), torch.arange(64, dtype=torch.uint8)[None]

    def cache(place: Path) -> DiskCache:
        found = DiskCache(place, Half())
        found.open("detector", [(2, 4, 4)])
        return found

    def make_entry(place: Path) -> Path:
        made = cache(place)
        made.store([key], row)
        return made.path(key)

    def read_entry(path: Path) -> None:
        found = cache(path.parents[2]).get(key)
        assert not found.hit or np.array_equal(np.asarray(found.row), row[0].numpy())

    def make_run(place: Path) -> Path:
        for number in range(2):
            rng = np.random.default_rng(number)
            write_run(
                place / f"run{number}",
                rng.uniform(0.3, 0.9, len(rois())).round(3).tolist(),
                model__num_classes=2 + number,
            )
        return place / "run0"

    def read_run(path: Path) -> None:
        runs, _ = read_runs([path.parent])
        common = check_comparable(runs)
        variants, _ = find_variants(runs, [])
        rows = compare(variants, common, None, "instance_iou", [], 100)
        report.write(path.parent / "report", rows, "instance_iou", True, [])
        assert table.csv_text([table.record(each, "instance_iou") for each in rows])

    def make_analysis(place: Path) -> Path:
        load_or_make_analysis(place / "data_analyze.json", sound)
        return place / "data_analyze.json"

    def read_analysis(path: Path) -> None:
        found = load_or_make_analysis(path, sound)
        for kind in ("log", "inverse"):
            assert np.isfinite(found["class_weights"][kind]["3"]).all()

    def image(suffix: str) -> Format:
        def make(place: Path) -> Path:
            cv2.imwrite(str(place / f"a{suffix}"), picture)
            return place / f"a{suffix}"

        def read(path: Path) -> None:
            found = read_image(path)
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3

        return Format(make, spoil_png if suffix == ".png" else spoil_bytes, read)

    lines = "file,x1,y1,x2,y2,score\na.jpg,5,5,60,70,0.9\nb.jpg,1.5,2,30,40,0.5\n"
    shares = "0 0.5 0.5 0.4 0.3 0.9\n0 0.2 0.2 0.1 0.1\n1 0.3 0.3 0.2 0.2 0.1\n"
    results = json.dumps([{"image_id": 7, "category_id": 1, "bbox": [5, 5, 50, 60], "score": 0.9}])
    return {
        "checkpoint": Format(copied(checkpoint), spoil_checkpoint, read_model),
        "exported": Format(copied(exported), spoil_metadata, read_exported),
        "annotations": Format(copied(coco.json), spoil_json, read_annotations),
        "persons": Format(copied(coco.json), spoil_json, read_persons),
        "index": Format(make_index, spoil_index, read_index),
        "cache": Format(make_entry, spoil_bytes, read_entry),
        "boxes-csv": Format(written("boxes.csv", lines), spoil_words, read_boxes),
        "boxes-yolo": Format(written("a.txt", shares), spoil_words, read_boxes),
        "boxes-coco": Format(copied(coco.json), spoil_json, read_boxes),
        "results-coco": Format(written("results.json", results), spoil_json, read_boxes),
        "run": Format(make_run, spoil_run, read_run),
        "analysis": Format(make_analysis, spoil_json, read_analysis),
        **{f"image{suffix}": image(suffix) for suffix in (".jpg", ".png", ".tif", ".bmp", ".webp")},
    }


# --- running ----------------------------------------------------------------------------------------


def run(cases: int, seed: int, names: list[str], folder: Path) -> dict[str, Outcome]:
    """Read so many mutated files in all, in turn of every format."""
    known = formats(folder)
    names = names or list(known)
    outcomes = {name: Outcome() for name in names}
    for name in names:  # a reader that refuses everything tests nothing
        with tempfile.TemporaryDirectory(dir=folder) as place:
            known[name].read(known[name].make(Path(place)))
    for case in range(cases):
        name = names[case % len(names)]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            one(known[name], Path(place), f"{seed}:{case}:{name}", outcomes[name])
    return outcomes


def one(kind: Format, place: Path, seed: str, outcome: Outcome) -> None:
    """Make, spoil and read one file."""
    path = kind.make(place)
    kind.spoil(path, random.Random(seed))
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            kind.read(path)
        outcome.counts["read"] += 1
    except UserError as error:
        outcome.counts["refused"] += 1
        line = user_message(error) or ""
        if not line.isprintable() or len(line) > 2000 or str(place) not in str(error):
            outcome.fail(f"line: {line[:200]!a}", seed)
    except Exception as error:
        outcome.counts["failed"] += 1
        where = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "site-packages" not in frame.filename
        ][-1]
        text = f"{Path(where.filename).name}:{where.lineno}: {type(error).__name__}: {str(error)[:150]}"
        outcome.fail(ascii(text), seed)
    if time.perf_counter() - started > SLOW:
        outcome.fail(f"took {time.perf_counter() - started:.0f} s", seed)


def main() -> None:
    """Run as the command line says, and print what came of it."""
    cases, seed, *names = sys.argv[1:] + ["0"] * (len(sys.argv) < 3)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        console.quiet = True
        outcomes = run(int(cases), int(seed), names, Path(folder))
        console.quiet = False
    for name, outcome in outcomes.items():
        console.print(f"{name}: {dict(outcome.counts)}", highlight=False)
    raise SystemExit(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
