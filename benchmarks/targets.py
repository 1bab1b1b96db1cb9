"""Targets per second and share of wrong cells: four methods, two frames, polygons and RLE."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks import real
from benchmarks.peak import bandwidth
from benchmarks.report import show
from benchmarks.timing import race
from roiseg.common.classes import IGNORE, NON_TARGET, TARGET
from roiseg.common.console import track
from roiseg.data.annotations import Annotations
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry.boxes import Boxes, intersection
from roiseg.geometry.outlines import Outlines
from roiseg.geometry.transform import Letterbox, Transform

INPUT = (640, 640)
SPECS = {
    "each ROI 56x56": TargetSpec("roi", (56, 56), 3, INPUT),
    "the image 80x80": TargetSpec("image", (80, 80), 3, INPUT),
}
MIN_SIZE = 16  # pixels, of a ROI
TIE = 1e-3  # pixels from an outline: annotations are rounded to hundredths
SECONDS = 3.0  # that two processes rasterize at the same time


@dataclass(frozen=True)
class Scene:
    """The instances and ROIs of an image."""

    outlines: Outlines
    boxes: Boxes  # [n, 4] input pixels
    crowd: NDArray[np.bool_]
    transform: Transform
    rois: Boxes  # [R, 4] input pixels
    target_index: NDArray[np.int64]


Way = Callable[[TargetSpec, Scene], NDArray[np.uint8]]
Cover = Callable[[int, Transform, NDArray[np.float32]], NDArray[np.uint8]]  # instance, grid, window -> 0/1


def scenes(annotations: Annotations) -> list[Scene]:
    """Return all images with a ROI, letterboxed, with each annotated box as a ROI."""
    found = []
    for image in range(len(annotations)):
        target_index = annotations.eligible(image, MIN_SIZE)
        if len(target_index):
            transform = Letterbox(INPUT).fit(*annotations.size(image))
            boxes = transform.boxes(annotations.pixel_boxes(image))
            crowd = annotations.crowd[annotations.instances(image)]
            outlines = annotations.outlines(image)
            found.append(Scene(outlines, boxes, crowd, transform, boxes[target_index], target_index))
    return found


def as_rle(annotations: Annotations) -> Annotations:
    """Return the same instances, each run-length encoded."""
    counts = [
        annotations.outlines(image).rle(n)["counts"]
        for image in range(len(annotations))
        for n in range(len(annotations.instances(image)))
    ]
    return replace(
        annotations,
        parts=np.zeros(len(counts) + 1, np.int64),
        part_ends=np.zeros(0, np.int64),
        points=np.zeros((0, 2), np.float32),
        runs=np.frombuffer(b"".join(counts), np.uint8),
        run_ends=np.cumsum([0] + [len(c) for c in counts]),
    )


# --- the ways -------------------------------------------------------------------------------------


def ours(spec: TargetSpec, scene: Scene) -> NDArray[np.uint8]:
    """Rasterize all ROIs of the image together."""
    return rasterize_targets(
        spec, scene.outlines, scene.crowd, scene.transform, scene.rois, scene.target_index
    )


def usual(spec: TargetSpec, scene: Scene) -> NDArray[np.uint8]:
    """Resize a full-size mask of each instance like the image, crop it and resize it again."""
    (height, width), to_input = scene.outlines.size, scene.transform
    left, top = round(to_input.shift_x), round(to_input.shift_y)
    new_w, new_h = round(to_input.scale_x * width), round(to_input.scale_y * height)
    masks = np.zeros((len(scene.boxes), *spec.image_size), np.uint8)
    for n, mask in enumerate(masks):
        full = coco_mask.decode(scene.outlines.rle(n))
        resized = cv2.resize(full, (new_w, new_h), interpolation=cv2.INTER_NEAREST)
        mask[top : top + new_h, left : left + new_w] = resized

    def cover(n: int, grid: Transform, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = (round(float(edge)) for edge in window)
        crop = masks[n, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        return np.asarray(cv2.resize(crop, spec.size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)

    return _compose(spec, scene, cover)


def straight(spec: TargetSpec, scene: Scene, finer: int = 1) -> NDArray[np.uint8]:
    """Rasterize the polygons with pycocotools on the grid itself, or on one finer by an odd factor."""
    height, width = (side * finer for side in spec.size)

    def cover(n: int, grid: Transform, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        parts = [(grid.points(part).astype(np.float64) * finer).ravel() for part in scene.outlines.pixels(n)]
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, height, width)))
        return mask[finer // 2 :: finer, finer // 2 :: finer]

    return _compose(spec, scene, cover)


def looked_up(spec: TargetSpec, scene: Scene) -> NDArray[np.uint8]:
    """Decode the full mask and take the pixels under the cell centres: exact for RLE."""
    height, width = scene.outlines.size
    masks = [coco_mask.decode(scene.outlines.rle(n)) for n in range(len(scene.boxes))]

    def cover(n: int, grid: Transform, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        x, y = _centers(grid, spec.size)
        inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
        columns, rows = (
            np.clip(v.astype(int), 0, side - 1) for v, side in ((np.floor(x), width), (np.floor(y), height))
        )
        return masks[n][np.ix_(rows, columns)] * np.outer(inside_y, inside_x).astype(np.uint8)

    return _compose(spec, scene, cover)


def _compose(spec: TargetSpec, scene: Scene, cover: Cover) -> NDArray[np.uint8]:
    """Combine the instances of each ROI; on the image's grid each is rasterized once."""
    image = np.array([0, 0, spec.image_size[1], spec.image_size[0]], np.float32)
    windows = scene.rois if spec.frame == "roi" else np.tile(image, (len(scene.rois), 1))
    touches = intersection(windows, scene.boxes) > 0
    grids = spec.grids(scene.transform, scene.rois)
    targets = np.zeros((len(windows), *spec.size), np.uint8)
    drawn: dict[int, NDArray[np.bool_]] = {}
    for number, (target, window, owner) in enumerate(zip(targets, windows, scene.target_index, strict=True)):
        g = number % len(grids)
        grid = Transform(*(float(v) for v in (*grids.scale[g], *grids.shift[g])))
        if spec.frame == "roi":
            drawn = {}
        others = [int(n) for n in np.flatnonzero(touches[number]) if n != owner]
        for n in (*others, int(owner)):
            if n not in drawn:
                drawn[n] = cover(n, grid, window) > 0
        for n in sorted(others, key=lambda n: not scene.crowd[n]):
            target[drawn[n]] = IGNORE if scene.crowd[n] else NON_TARGET
        target[drawn[int(owner)]] = TARGET
    return targets


# --- the truth ------------------------------------------------------------------------------------


Truth = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # [R, h, w] inside the target; is that certain?


def exact(spec: TargetSpec, scene: Scene) -> Truth:
    """Tell whether each cell's centre is inside the target, in float64, and whether that is certain."""
    if not len(scene.outlines.points):  # run-length encoded: it is the pixel there that counts
        inside = looked_up(spec, scene) == TARGET
        return inside, np.ones_like(inside)
    answers, certain = [], []
    grids = spec.grids(scene.transform, scene.rois)
    for number, owner in enumerate(scene.target_index):
        g = number % len(grids)
        x, y = _centers(Transform(*grids.scale[g], *grids.shift[g]), spec.size)
        parts = scene.outlines.pixels(int(owner))
        around = [_even_odd(parts, x + dx, y + dy) for dx in (-TIE, TIE) for dy in (-TIE, TIE)]
        answers.append(around[0])
        certain.append(np.all([other == around[0] for other in around], axis=0))
    return np.array(answers), np.array(certain)


def _centers(grid: Transform, size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the original pixels x [w], y [h] under the centres of the cells."""
    steps = (np.arange(side, dtype=np.float64) + 0.5 for side in size)
    y, x = next(steps), next(steps)
    return (x - grid.shift_x) / grid.scale_x, (y - grid.shift_y) / grid.scale_y


def _even_odd(
    parts: list[NDArray[np.float64]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    inside = np.zeros((len(y), len(x)), bool)
    for part in parts:
        odd = np.zeros_like(inside)
        for a, b in zip(part, np.roll(part, -1, axis=0), strict=True):
            rows = (a[1] <= y) != (b[1] <= y)
            crossing = a[0] + (y[rows] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) if rows.any() else y[:0]
            odd[rows] ^= crossing[:, None] <= x
        inside |= odd
    return inside


def wrong(way: Way, spec: TargetSpec, all_: list[Scene], truth: list[Truth]) -> float:
    """Return the wrongly labelled cells, divided by the true target cells."""
    pairs = [(way(spec, s) == TARGET, *t) for s, t in zip(all_, truth, strict=True)]
    differ = sum(np.count_nonzero((got != inside) & certain) for got, inside, certain in pairs)
    return differ / sum(np.count_nonzero(inside) for _, inside, _ in pairs)


# --- measuring ------------------------------------------------------------------------------------


def draw_all(way: Way, spec: TargetSpec, all_: list[Scene]) -> None:
    """Rasterize the targets of all ROIs once."""
    for scene in all_:
        way(spec, scene)


def _rates(way: Way, spec: TargetSpec, all_: list[Scene], seconds: float) -> tuple[float, float]:
    """Return ROIs per second, and ROIs per second of processor time."""
    rounds, started, used = 0, time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - started) < seconds:
        draw_all(way, spec, all_)
        rounds += 1
    count = rounds * sum(len(scene.rois) for scene in all_)
    return count / took, count / (time.process_time() - used)


def _warm(_: int) -> None:
    time.sleep(0.5)  # long enough that each process takes one


def main() -> None:
    """Rasterize the real training set with every method."""
    annotations = real.persons()
    polygons, runs = scenes(annotations), scenes(as_rle(annotations))
    count = sum(len(scene.rois) for scene in polygons)
    kinds: dict[str, tuple[list[Scene], dict[str, Way]]] = {
        "polygons": (
            polygons,
            {
                "the usual way": usual,
                "pycocotools": straight,
                "3x finer": partial(straight, finer=3),
                "ours": ours,
            },
        ),
        "RLE": (runs, {"the usual way": usual, "decoded, looked up": looked_up, "ours": ours}),
    }
    rate = bandwidth("cpu") / 2
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(_warm, range(2)))
        for kind, (all_, ways) in kinds.items():
            for frame, spec in SPECS.items():
                truth = [exact(spec, scene) for scene in track(all_, "exact answer", total=len(all_))]
                timings = race({name: partial(draw_all, way, spec, all_) for name, way in ways.items()})
                rows = []
                for name, way in ways.items():
                    jobs = [pool.submit(_rates, way, spec, all_, SECONDS) for _ in range(2)]
                    wall, used = zip(*(job.result() for job in jobs), strict=True)
                    one, ratio = (x / timings[name].median for x in (count, timings["the usual way"].median))
                    share = wrong(way, spec, all_, truth)
                    speeds = (f"{v:,.0f}" for v in (one, sum(wall), sum(used) / 2))
                    rows.append([name, *speeds, f"{ratio:.1f}x", f"{share:.2%}"])
                cells = spec.size[0] * spec.size[1]
                floor = f"floor: {cells:,} bytes a ROI at {rate / 1e9:.1f} GB/s = {rate / cells:,.0f} ROI/s"
                title = f"targets of {kind}, {frame} ({count} ROIs of {len(all_)} images)"
                columns = ["way", "ROI/s", "2 processes", "a CPU second", "ratio", "wrong cells"]
                show(title, columns, rows, floor)


if __name__ == "__main__":
    main()
