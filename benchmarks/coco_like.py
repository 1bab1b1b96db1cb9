"""Annotation sets of any size with the statistics of COCO train2017's persons.

COCO train2017 has 64,115 images with 262,465 non-crowd persons. The distributions below are those of the
61 images with 254 persons among its first 128 (COCO128, annotations CC BY 4.0, COCO Consortium), so that
no data is needed. Not modelled: persons of one image have similar sizes and stand together.

    python -m benchmarks.coco_like FILE [IMAGES]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.console import console, track
from roiseg.common.files import atomic_path

IMAGES = 64_115
PERSONS = 262_465
SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (480, 640))  # (H, W), equally probable

# images by their number of persons
PERSONS_AN_IMAGE = {1: 22, 2: 10, 3: 7, 4: 2, 5: 4, 6: 3, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 4, 13: 4}
PARTS_A_PERSON = {1: 232, 2: 18, 3: 1, 4: 3}
# quantiles 0, 5 %, 10 % ... 100 %
POINTS_A_PART = (
    4, 8, 10, 12, 14, 15, 16, 18, 20, 22, 24, 25, 29, 31, 33, 37, 41, 46, 55, 71, 127,
)  # fmt: skip
# square root of a box's share of the image
SIDE = (
    0.0117, 0.0196, 0.0268, 0.0331, 0.0414, 0.0461, 0.055, 0.0638, 0.0743, 0.0892, 0.1009, 0.1248, 0.1503,
    0.1781, 0.2297, 0.255, 0.3048, 0.3995, 0.4977, 0.6863, 0.9803,
)  # fmt: skip
# height / width of a box in pixels
ASPECT = (
    0.455, 0.878, 1.035, 1.117, 1.189, 1.307, 1.387, 1.524, 1.602, 1.714, 1.82, 1.978, 2.11, 2.271, 2.473,
    2.687, 2.842, 3.125, 3.44, 4.075, 5.626,
)  # fmt: skip
# of the logarithms of a person's area and its number of points
_POINTS_GROW_WITH_SIZE = 0.5
_CHUNK = 1000  # images sampled together


def write_set(
    path: str | Path, images: int = IMAGES, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 0
) -> int:
    """Write a COCO instances file; memory does not grow with `images`.

    Args:
        path: the json file, written atomically.
        images: number of images, each with one person or more; they are named 000000000001.jpg, ...
        sizes: (H, W) of the images, equally probable.
        seed: the same seed, images and sizes give the same file.

    Returns:
        The number of persons.
    """
    chunks = [range(start, min(start + _CHUNK, images)) for start in range(0, images, _CHUNK)]
    persons = _spread(PERSONS_AN_IMAGE, images, np.random.default_rng((seed, 0)), mean=PERSONS / IMAGES)
    picked = np.random.default_rng((seed, 1)).integers(0, len(sizes), images)
    shape = np.array(sizes)[picked]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        for i in range(images):
            stream.write((", " if i else "") + json.dumps(_image(i + 1, *shape[i].tolist())))
        stream.write('], "annotations": [')
        number = 0
        for chunk in track(chunks, f"writing {images:,} images", total=len(chunks)):
            owners = np.repeat(np.array(chunk), persons[chunk])
            rng = np.random.default_rng((seed, 2, chunk.start))
            for record in _persons(owners + 1, shape[owners], rng):
                number += 1
                stream.write((", " if number > 1 else "") + json.dumps({**record, "id": number}))
        stream.write('], "categories": [{"id": 1, "name": "person", "supercategory": "person"}]}\n')
    return number


def _image(number: int, height: int, width: int) -> dict[str, Any]:
    """Return a record with as many bytes as COCO's, including unused fields."""
    name = f"{number:012d}.jpg"
    return {
        "license": 1, "file_name": name, "coco_url": f"http://images.example.org/train2017/{name}",
        "height": height, "width": width, "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.images.example.org/8186/8119368305_{number:010x}_z.jpg", "id": number,
    }  # fmt: skip


def _persons(image_ids: NDArray[Any], sizes: NDArray[Any], rng: np.random.Generator) -> Iterator[Any]:
    """Return records of persons, given the image id [N] and the (H, W) [N, 2] of each."""
    total = len(image_ids)
    largeness = rng.normal(size=total)
    height, width = sizes.T
    side = _quantile(SIDE, largeness) * np.sqrt(height * width)
    stretch = np.sqrt(_quantile(ASPECT, rng.normal(size=total)))
    w, h = np.minimum(side / stretch, width), np.minimum(side * stretch, height)
    corner = rng.random((total, 2)) * np.stack([width - w, height - h], 1)
    boxes = np.concatenate([corner, np.stack([w, h], 1)], axis=1)
    parts = _spread(PARTS_A_PERSON, total, rng)
    owner = np.repeat(np.arange(total), parts)
    noise = rng.normal(size=len(owner))
    rho = _POINTS_GROW_WITH_SIZE
    points = _quantile(POINTS_A_PART, rho * largeness[owner] + np.sqrt(1 - rho**2) * noise)
    outlines = iter(_outlines(_stacked(boxes, parts), np.rint(points).astype(int), rng))
    for i in range(total):
        outline = [next(outlines) for _ in range(parts[i])]
        x, y, w_, h_ = boxes[i].round(2).tolist()
        yield {
            "segmentation": outline, "area": round(w_ * h_ * 0.6, 4), "iscrowd": 0,
            "image_id": int(image_ids[i]), "bbox": [x, y, w_, h_], "category_id": 1,
        }  # fmt: skip


def _stacked(boxes: NDArray[Any], parts: NDArray[Any]) -> NDArray[Any]:
    """Return boxes x, y, w, h [P, 4] of the parts, which are stacked in the person's box."""
    of_part = np.repeat(boxes, parts, axis=0)
    position = np.arange(len(of_part)) - np.repeat(np.cumsum(parts) - parts, parts)
    of_part[:, 3] /= np.repeat(parts, parts)
    of_part[:, 1] += position * of_part[:, 3]
    return of_part


def _outlines(boxes: NDArray[Any], points: NDArray[Any], rng: np.random.Generator) -> list[list[float]]:
    """Return star-shaped polygons with `points` [P] corners that touch all sides of their boxes [P, 4]."""
    first = np.cumsum(points) - points
    position = np.arange(points.sum()) - np.repeat(first, points)
    angle = 2 * np.pi * (position + rng.uniform(0, 0.8, len(position))) / np.repeat(points, points)
    radius = rng.uniform(0.5, 1, len(angle))
    xy = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1)
    low, high = np.minimum.reduceat(xy, first), np.maximum.reduceat(xy, first)
    scale = boxes[:, 2:] / (high - low)
    xy = (xy - np.repeat(low, points, 0)) * np.repeat(scale, points, 0) + np.repeat(boxes[:, :2], points, 0)
    flat = xy.round(2).ravel().tolist()
    return [flat[2 * a : 2 * (a + n)] for a, n in zip(first.tolist(), points.tolist(), strict=True)]


def _quantile(table: Sequence[float], normal: NDArray[Any]) -> NDArray[Any]:
    """Return values distributed as `table` (evenly spaced quantiles), in the order of the normal variates."""
    rank = np.empty(len(normal))
    rank[np.argsort(normal)] = (np.arange(len(normal)) + 0.5) / len(normal)
    return np.exp(np.interp(rank, np.linspace(0, 1, len(table)), np.log(table)))


def _spread(
    histogram: dict[int, int], total: int, rng: np.random.Generator, mean: float | None = None
) -> NDArray[np.int64]:
    """Return `total` numbers in random order, distributed as `histogram` (tilted exponentially to `mean`)."""
    values = np.array(list(histogram))
    weights = np.array(list(histogram.values()), float)
    if mean is not None:
        slopes = np.linspace(-0.2, 0.2, 4001)
        tilted = weights * np.exp(np.outer(slopes, values))
        means = (tilted * values).sum(1) / tilted.sum(1)
        weights = tilted[np.abs(means - mean).argmin()]
    rank = (np.arange(total) + 0.5) / total
    return rng.permutation(values[np.searchsorted(np.cumsum(weights) / weights.sum(), rank)])


def main() -> None:
    """Write a set to the path on the command line."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    path, images = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else IMAGES
    persons = write_set(path, images)
    size = path.stat().st_size / 1e6
    console.print(f"{path}: {images:,} images, {persons:,} persons, {size:.0f} MB", highlight=False)


if __name__ == "__main__":
    main()
