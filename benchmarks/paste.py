"""Pasting 100 persons onto a 4000x3000 image as RLE: windows, one canvas each, all canvases at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmarks.memory import Memory, fresh
from benchmarks.report import show
from roiseg.common.console import track
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import paste_crop, paste_masks
from roiseg.geometry.rle import encode, encode_window

SIZE = (3000, 4000)
PERSONS = 100
GRID = (56, 56)
HEIGHTS = (150, 1200)  # pixels, of a person
ROUNDS = 2

Encodings = list[dict[str, Any]]
Way = Callable[[Tensor, Boxes, tuple[int, int]], Iterable[dict[str, Any]]]


def persons(count: int, size: tuple[int, int]) -> tuple[Tensor, Boxes]:
    """Return smooth probabilities [R, *GRID] and boxes [R, 4] of persons somewhere in an image of `size`."""
    rng = np.random.default_rng(0)
    height, width = size
    least, most = HEIGHTS
    tall = least * (most / least) ** rng.uniform(size=count) * height / SIZE[0]
    wide = tall * rng.uniform(0.3, 0.8, count)
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    coarse = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = torch.nn.functional.interpolate(coarse, GRID, mode="bicubic")[:, 0].clamp(0, 1)
    return masks, np.stack([left, top, left + wide, top + tall], axis=1).astype(np.float32)


def canvases_at_once(masks: Tensor, boxes: Boxes, size: tuple[int, int]) -> Iterable[dict[str, Any]]:
    """Encode conventionally: probabilities [R, H, W], a threshold, and pycocotools."""
    pasted = paste_masks(masks, torch.from_numpy(boxes), size)
    binary = (pasted >= 0.5).numpy()
    return [encode(mask) for mask in binary]


def canvas_each(masks: Tensor, boxes: Boxes, size: tuple[int, int]) -> Iterable[dict[str, Any]]:
    """Paste each box's pixels onto a full-size binary mask, and encode it with pycocotools."""
    encodings = []
    for mask, box in zip(masks, boxes, strict=True):
        values, (x1, y1, x2, y2) = paste_crop(mask, box, size)
        canvas = np.zeros(size, bool)
        canvas[y1:y2, x1:x2] = values >= 0.5
        encodings.append(encode(canvas))
    return encodings


def windows(masks: Tensor, boxes: Boxes, size: tuple[int, int]) -> Iterable[dict[str, Any]]:
    """Paste and encode only each box's pixels, as `evaluate` and `predict` do."""
    for mask, box in zip(masks, boxes, strict=True):
        values, window = paste_crop(mask, box, size)
        yield encode_window(values >= 0.5, window, size)


WAYS: dict[str, Way] = {
    "all canvases at once": canvases_at_once,
    "one canvas after another": canvas_each,
    "ours: windows": windows,
}


def measure(name: str, count: int, size: tuple[int, int]) -> tuple[float, float, Encodings]:
    """Return the fastest round in seconds, additional memory in MB, and the encodings."""
    torch.set_num_threads(1)
    masks, boxes = persons(count, size)
    list(WAYS[name](masks[:1], boxes[:1], (50, 50)))  # what is loaded on first use
    start = Memory.of().resident
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        encodings = list(WAYS[name](masks, boxes, size))
        seconds.append(time.perf_counter() - started)
    return min(seconds), max(0.0, Memory.of().peak - start), encodings


def agreement(a: Encodings, b: Encodings) -> float:
    """Return the smallest IoU of two masks that should be equal."""
    return min(float(coco_mask.iou([x], [y], [0])[0, 0]) for x, y in zip(a, b, strict=True))


def main() -> None:
    """Measure each way in its own process."""
    results = {name: fresh(measure, name, PERSONS, SIZE) for name in track(WAYS, "pasting", total=len(WAYS))}
    slowest, _, wanted = results["all canvases at once"]
    rows = []
    for name, (s, mb, found) in results.items():
        same = agreement(found, wanted)
        rows.append([name, f"{1e3 * s / PERSONS:.2f}", f"{slowest / s:.1f}x", f"{mb:,.0f}", f"{same:.4f}"])
    _, boxes = persons(PERSONS, SIZE)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    canvases = 4 * PERSONS * SIZE[0] * SIZE[1]
    show(
        f"{PERSONS} persons on {SIZE[1]}x{SIZE[0]} as RLE, one thread",
        ["way", "ms a person", "speed", "MB above start", "IoU"],
        rows,
        f"floor: float32 probabilities of the largest window {4 * areas.max() / 1e6:.1f} MB, of the mean one "
        f"{4 * areas.mean() / 1e6:.1f} MB; of all canvases {canvases / 1e6:,.0f} MB",
    )


if __name__ == "__main__":
    main()
