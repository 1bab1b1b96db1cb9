"""The usual loop (one sample per ROI, one detector run per sample) compared with ours, on the same ROIs.

The usual way is what one writes first: every sample reads its image, letterboxes it, draws its target
from full-size masks, and the ONNX runs on it, in every epoch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks import real
from benchmarks.report import show
from benchmarks.timing import race
from benchmarks.training import Run, decoder_step, make_run
from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.data.batch import RoiBatch
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.geometry.rle import decode
from roiseg.geometry.transform import Transform

PERSONS = (1, 4, 16)
ROIS = 64  # of an epoch
BATCH = 32  # ROIs


def crowd_scenes(folder: Path, persons: int, images: int | None = None) -> Path:
    """Annotations of some real images with exactly `persons` real outlines each, laid at random places.

    Args:
        images: their number; None gives `ROIS` outlines in all.
    """
    source = (
        real.folder() / "coco128_person" / "annotations" / "instances_train2017_person_only_no_crowd.json"
    )
    content = json.loads(source.read_text())
    pool = [
        a for a in content["annotations"] if min(a["bbox"][2:]) >= 40 and isinstance(a["segmentation"], list)
    ]
    rng = np.random.default_rng(persons)
    used = content["images"][: images or ROIS // persons]
    records: list[dict[str, Any]] = []
    for image in used:
        for chosen in rng.choice(len(pool), persons):
            records.append(_moved(pool[chosen], image, rng) | {"id": len(records) + 1})
    path = folder / f"persons_{persons}.json"
    path.write_text(json.dumps({**content, "images": used, "annotations": records}))
    return path


def _moved(record: dict[str, Any], image: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A person in another image: brought to at most 90 % of its size, at a random place."""
    x, y, w, h = record["bbox"]
    scale = min(1.0, 0.9 * image["width"] / w, 0.9 * image["height"] / h)
    place = rng.uniform((0, 0), (image["width"] - w * scale, image["height"] - h * scale))
    parts = [
        ((np.reshape(p, (-1, 2)) - (x, y)) * scale + place).ravel().tolist() for p in record["segmentation"]
    ]
    box = [*map(float, place), w * scale, h * scale]
    return {"image_id": image["id"], "category_id": 1, "iscrowd": 0, "bbox": box, "segmentation": parts}


class UsualDataset(Dataset[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]):
    """One sample per ROI: its letterboxed image, its box in input pixels, its target [56, 56]."""

    def __init__(self, dataset: RoiDataset) -> None:
        self.dataset = dataset
        counts = np.diff(dataset.annotations.first)
        self.pairs = [(image, n) for image, count in enumerate(counts) for n in range(count)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Read the image, letterbox it, rasterize the target."""
        image, owner = self.pairs[item]
        annotations, letterbox = self.dataset.annotations, self.dataset.views.letterbox
        size = annotations.size(image)
        transform = letterbox.fit(*size)
        picture = read_image(self.dataset.image_dir / str(annotations.file_names[image]), size)
        labels = warp(self._labels(image, owner), transform, letterbox.size)
        roi: NDArray[Any] = transform.boxes(annotations.pixel_boxes(image))[owner]
        x1, y1, x2, y2 = (max(0, round(float(v))) for v in roi)
        crop = labels[y1 : max(y1 + 1, y2), x1 : max(x1 + 1, x2)]
        target: NDArray[Any] = cv2.resize(crop, (56, 56), interpolation=cv2.INTER_NEAREST)
        return letterbox.apply(picture, transform), roi, target

    def _labels(self, image: int, owner: int) -> NDArray[np.uint8]:
        """The classes of all pixels of the original image, from a full-size mask a person."""
        annotations = self.dataset.annotations
        outlines = annotations.outlines(image)
        labels = np.zeros(annotations.size(image), np.uint8)
        for n in range(len(annotations.instances(image))):
            if n != owner:
                labels[decode(outlines.rle(n))] = NON_TARGET
        labels[decode(outlines.rle(owner))] = TARGET
        return labels


def warp(labels: NDArray[np.uint8], transform: Transform, size: tuple[int, int]) -> NDArray[Any]:
    """Labels at original size -> labels at input `size` (H, W)."""
    t = transform
    matrix = np.array([[t.scale_x, 0, t.shift_x], [0, t.scale_y, t.shift_y]])
    return cv2.warpAffine(labels, matrix, (size[1], size[0]), flags=cv2.INTER_NEAREST)


def usual_epoch(run: Run) -> Callable[[], None]:
    """An epoch of the usual loop."""
    dataset = UsualDataset(run.data.dataset("train"))
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    step = decoder_step(run.module)

    def epoch() -> None:
        for pictures, boxes, targets in loader:
            with torch.no_grad():
                features = run.data.extractor(pictures)
            index = torch.arange(len(boxes), dtype=torch.float32)[:, None]
            step(RoiBatch(pictures, torch.cat([index, boxes], dim=1), targets, [], features=features))

    return epoch


def our_epoch(run: Run) -> Callable[[], None]:
    """An epoch of ours."""
    loader = run.data.train_dataloader()
    step = decoder_step(run.module)

    def epoch() -> None:
        for batch in loader:
            step(batch)

    return epoch


def measure(folder: Path, persons: int, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    common = (
        "data=coco128_person", "extractor=yolox", "data/augment=null", "callbacks=[]", "logger=[]",
        f"data.train_annotations={crowd_scenes(folder, persons)}", f"data.batch_size={BATCH // persons}",
        f"data.sampler.rois_per_image={persons}", "data.sampler.jitter_share=0",
    )  # fmt: skip
    runs = [make_run(folder, *common, f"data/cache={cache}") for cache in ("null", "memory")]
    times = race(
        {"usual": usual_epoch(runs[0]), "computed": our_epoch(runs[0]), "kept": our_epoch(runs[1])}, rounds
    )
    usual, computed, kept = (times[name].median for name in ("usual", "computed", "kept"))
    return (
        str(persons), f"{1e3 * usual / ROIS:.1f}", f"{1e3 * computed / ROIS:.1f}", f"{1e3 * kept / ROIS:.1f}",
        f"{usual / computed:.2f}x", f"{usual / kept:.2f}x",
    )  # fmt: skip


def main(rounds: int = 5) -> None:
    """Measure and show."""
    with tempfile.TemporaryDirectory() as name:
        rows = [measure(Path(name), persons, rounds) for persons in PERSONS]
    show(
        f"An epoch of {ROIS} ROIs with YOLOX-Nano and roialign, ms a ROI, medians",
        ("persons an image", "usual", "ours, computed", "ours, kept", "usual / computed", "usual / kept"),
        rows,
        "YOLOX-Nano is 0.5 GMAC an image; with a heavier detector the ratios grow to the persons an image.",
    )


if __name__ == "__main__":
    main()
