"""Time and memory of annotation sets of 1,000, 8,000 and 64,115 images: is the growth linear?

The first parse, opening the index, `analyze` against full-size masks, and an epoch of the loader. Sets
are those of `benchmarks.coco_like`; all their images are one real JPEG. `--quick` leaves 64,115 out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.coco_like import IMAGES, write_set
from benchmarks.memory import Memory, fresh
from benchmarks.report import show
from roiseg.common.console import console, track
from roiseg.data.analysis import CLASSES, analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotations import Annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.batch import collate
from roiseg.data.dataset import RoiDataset
from roiseg.data.feature_loader import FeatureLoader
from roiseg.data.images import read_image
from roiseg.data.samplers import EpochSampler, RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox

T = TypeVar("T")

MIN_SIZE = 16  # pixels, of a ROI
ROUNDS = 3
MASK_IMAGES = 300  # on which the way through full-size masks is timed
BATCH = 8
MOST_BATCHES = 2000  # of the epoch: more would only take longer
WORKERS = 2
LONG = 10_000  # images, from which on the json is read once only
LINKS = 1000  # names of one file: file systems have a limit


@dataclass(frozen=True)
class Set:
    """A set on disk."""

    json: Path
    pictures: Path
    index: Path
    images: int
    persons: int


def make(folder: Path, picture: Path, images: int) -> Set:
    """Write a set with a number of images, all of them names of one JPEG."""
    place = folder / str(images)
    made = Set(place / "instances.json", place / "images", place / "index", images, 0)
    height, width = read_image(picture).shape[:2]
    persons = write_set(made.json, images, [(height, width)])
    made.pictures.mkdir()
    for i in range(images):
        name = made.pictures / f"{i + 1:012d}.jpg"
        if i % LINKS == 0:
            source = shutil.copy(picture, name)
        else:
            os.link(source, name)
    return Set(made.json, made.pictures, made.index, images, persons)


# --- each in its own process -----------------------------------------------------------------

Cost = tuple[float, Memory, Memory]  # seconds; memory before and after


def parse(path: Path) -> Cost:
    """Read a file for the first time, without writing an index."""
    before, start = Memory.of(), time.perf_counter()
    kept = load_annotations(path)
    return time.perf_counter() - start, before, Memory.of() if len(kept) else before


def json_alone(path: Path) -> Cost:
    """Run the json parser alone."""
    before, start = Memory.of(), time.perf_counter()
    kept = json.loads(path.read_bytes())
    return time.perf_counter() - start, before, Memory.of() if kept else before


def pycocotools(path: Path) -> Cost:
    """Open a set conventionally, as in every run and process."""
    from pycocotools.coco import COCO  # matplotlib comes with it, which nobody else needs to hold

    before, start = Memory.of(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        kept = COCO(str(path))
    return time.perf_counter() - start, before, Memory.of() if kept.anns else before


def dataset_of(given: Set) -> RoiDataset:
    """Return the training data set, from its index."""
    annotations = load_annotations(given.json, index_dir=given.index)
    views, spec = Views(Letterbox((416, 416)), Augment()), TargetSpec("roi", (56, 56), 3, (416, 416))
    return RoiDataset(annotations, given.pictures, views, spec, MIN_SIZE, RoiSampler())


def open_set(given: Set) -> Cost:
    """Open a set that has an index, and check that its images exist."""
    before, start = Memory.of(), time.perf_counter()
    kept = dataset_of(given)
    return time.perf_counter() - start, before, Memory.of() if len(kept) else before


def epoch(given: Set, most: int) -> tuple[int, float, list[Memory]]:
    """Run an epoch of the loader.

    Returns:
        The number of images after the first batch, the seconds they took, and the memory of all
        processes at the tenth, the middle and the last batch.
    """
    dataset = dataset_of(given)
    sampler = EpochSampler(len(dataset), seed=0, shuffle=True)
    loader = FeatureLoader(
        dataset, lambda batch: batch, batch_size=BATCH, sampler=sampler, collate_fn=collate,
        num_workers=WORKERS, multiprocessing_context="fork",
    )  # fmt: skip
    batches = min(most, len(loader))
    images, memory, start = 0, [], 0.0
    for number, batch in enumerate(track(loader, f"epoch of {given.images:,} images", total=batches)):
        images += len(batch.images) if start else 0
        start = start or time.perf_counter()
        if number in (min(9, batches - 1), batches // 2, batches - 1):  # the first ten fill the queues
            memory.append(Memory.with_children())
        if number == batches - 1:
            break
    return images, time.perf_counter() - start, memory


# --- analysis -----------------------------------------------------------------------------------------


def through_full_masks(annotations: Annotations, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pixels [R, 4] of the ROIs by class, counted in each person's mask at original size."""
    counts = [np.zeros((0, len(CLASSES)), np.int64)]
    for image in images.tolist():
        owners = annotations.eligible(image, MIN_SIZE)
        boxes = annotations.pixel_boxes(image).round().astype(int)
        crowd = annotations.crowd[annotations.instances(image)]
        outlines = annotations.outlines(image)
        masks = [coco_mask.decode(outlines.rle(i)) > 0 for i in range(len(outlines))]
        for owner in owners:
            x1, y1, x2, y2 = boxes[owner]
            labels = np.zeros((y2 - y1, x2 - x1), np.uint8)
            for i in (*np.flatnonzero(crowd), *np.flatnonzero(~crowd), owner):
                value = "ignore" if crowd[i] else "non_target" if i != owner else "target"
                labels[masks[i][y1:y2, x1:x2]] = CLASSES[value]
            counts.append(np.bincount(labels.ravel(), minlength=256)[None, list(CLASSES.values())])
    return np.concatenate(counts)


def race_analysis(given: Set) -> tuple[float, float, dict[str, int]]:
    """Return the seconds of `analyze` and of full-size masks (extrapolated from a sample), and totals."""
    annotations = load_annotations(given.json, index_dir=given.index)
    sample = np.linspace(0, len(annotations) - 1, min(MASK_IMAGES, len(annotations))).astype(np.int64)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        start = time.perf_counter()
        through_full_masks(annotations, sample)
        between = time.perf_counter()
        found = analyze(annotations, MIN_SIZE)
        seconds[0].append(time.perf_counter() - between)
        seconds[1].append((between - start) * len(annotations) / len(sample))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), found["totals"]


# --- tables -------------------------------------------------------------------------------------------


def median_cost(way: Callable[[T], Cost], given: T, rounds: int = ROUNDS) -> Cost:
    """Return the median of several runs, each in a new process."""
    return sorted((fresh(way, given) for _ in range(rounds)), key=lambda cost: cost[0])[rounds // 2]


def show_parse(sets: list[Set]) -> None:
    """Show the first parse against json alone and pycocotools."""
    rows = []
    ways = {"json.loads": json_alone, "pycocotools COCO()": pycocotools, "first parse": parse}
    for given in sets:
        for name, way in ways.items():
            seconds, before, after = median_cost(way, given.json, 1 if given.images > LONG else ROUNDS)
            added = after.peak - before.resident
            rows.append((
                f"{given.images:,}", name, f"{seconds:.2f}", f"{1e6 * seconds / given.images:.0f}",
                f"{added:.0f}", f"{1e3 * added / given.images:.1f}",
            ))  # fmt: skip
    show(
        "reading the json", ("images", "way", "s", "us/image", "peak MB", "kB/image"), rows,
        "Peak resident memory over that of the imports. Floor: json.loads, which the parse contains.",
    )  # fmt: skip


def show_opening(sets: list[Set]) -> None:
    """Show opening from the index against reading that file once."""
    rows = []
    for given in sets:
        load_annotations(given.json, index_dir=given.index)
        (index,) = given.index.iterdir()
        start = time.perf_counter()
        size = len(index.read_bytes()) / 1e6
        floor = time.perf_counter() - start
        seconds, before, after = median_cost(open_set, given)
        rows.append((
            f"{given.images:,}", f"{seconds:.3f}", f"{1e6 * seconds / given.images:.1f}", f"{floor:.3f}",
            f"{size:.1f}", f"{after.own - before.own:.1f}", f"{after.mapped - before.mapped:.1f}",
            f"{after.peak:.0f}",
        ))  # fmt: skip
    show(
        "opening the set from its index, images checked",
        ("images", "s", "us/image", "read once s", "index MB", "own MB", "mapped MB", "process MB"), rows,
        "own: allocated by each process; mapped: pages of the index, shared by all processes; process: peak "
        "resident, imports included. Floor: the index read once.",
    )  # fmt: skip


def show_analysis(sets: list[Set]) -> None:
    """Show `analyze` against full-size masks."""
    rows = []
    for given in sets:
        seconds, usual, totals = race_analysis(given)
        rows.append((
            f"{given.images:,}", f"{totals['instances']:,}", f"{totals['rois']:,}", f"{seconds:.2f}",
            f"{1e6 * seconds / given.images:.0f}", f"{usual:.1f}", f"{usual / seconds:.1f}x",
        ))  # fmt: skip
    show(
        "analyze", ("images", "persons", "ROIs", "s", "us/image", "full-size masks s", "ratio"), rows,
        f"Full-size masks by pycocotools: from {MASK_IMAGES} images, scaled to all.",
    )  # fmt: skip


def show_epochs(sets: list[Set], most: int) -> None:
    """Show an epoch of the loader and its memory."""
    rows = []
    for given in sets:
        images, seconds, memory = fresh(epoch, given, most)
        own, mapped = (" / ".join(f"{getattr(m, name):.0f}" for m in memory) for name in ("own", "mapped"))
        rows.append((f"{given.images:,}", f"{images:,}", f"{images / seconds:.0f}", own, mapped))
    show(
        f"an epoch of the loader: {WORKERS} workers, batches of {BATCH}; JPEG, ROIs, targets; no extractor",
        ("images", "loaded", "images/s", "own MB", "mapped MB"), rows,
        f"Memory of all processes at the tenth, the middle and the last batch of at most {most:,}. Mapped: "
        "the libraries, and the pages of the index touched so far, once for all processes.",
    )  # fmt: skip


def main() -> None:
    """Make the sets, measure, print."""
    from benchmarks import real  # the detector comes with it, which the measured processes do not hold

    sizes = (1000, 8000) if "--quick" in sys.argv[1:] else (1000, 8000, IMAGES)
    train = real.persons()
    number = int(np.flatnonzero((train.sizes == (480, 640)).all(axis=1))[0])
    picture = real.image_dir() / str(train.file_names[number])
    with tempfile.TemporaryDirectory(prefix="roiseg-scale-") as folder:
        sets = [make(Path(folder), picture, images) for images in sizes]
        for given in sets:
            size = given.json.stat().st_size / 1e6
            console.print(
                f"{given.images:,} images, {given.persons:,} persons, {size:.0f} MB", highlight=False
            )
        show_parse(sets)
        show_opening(sets)
        show_analysis(sets)
        show_epochs(sets, MOST_BATCHES)


if __name__ == "__main__":
    main()
