"""COCO's average precision of instance masks, by its own tool (Lin et al., 2014)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from roiseg.data.annotations import Annotations

_MOST = 100  # results an image that count, as in COCO; more only where more persons than that are annotated
_SIZES = ("all", "small", "medium", "large")


def truth_records(annotations: Annotations, image: int, instances: Iterable[int]) -> list[dict[str, Any]]:
    """COCO annotations of some instances of an image (by position in it), and of all its crowds.

    The area, by which COCO tells small from large, is that of the mask in whole pixels.
    """
    every, outlines = annotations.instances(image), annotations.outlines(image)
    wanted = {int(i) for i in instances} | {int(i) for i in np.flatnonzero(annotations.crowd[every])}
    records = []
    for position in sorted(wanted):
        rle = outlines.rle(position)
        records.append({
            "id": int(annotations.ids[every[position]]),
            "image_id": int(annotations.image_ids[image]),
            "category_id": 1,
            "iscrowd": int(annotations.crowd[every[position]]),
            "segmentation": rle,
            "area": float(coco_mask.area(rle)),
            "bbox": coco_mask.toBbox(rle).tolist(),
        })  # fmt: skip
    return records


def average_precision(
    truths: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    kind: str = "segm",
) -> dict[str, float | None]:
    """Average precision and recall over all images.

    Args:
        truths: COCO annotations of one category, their ids not read; results in crowds count neither for nor
            against.
        results: COCO results of that category: `image_id`, `segmentation` (RLE), `bbox`, `score`.
        image_ids: all images that were looked at, those without truth or result included.
        kind: "segm" compares masks, "bbox" boxes.

    Returns:
        `AP`: mean over IoU 0.50, 0.55 ... 0.95; `AP50`, `AP75`; `AP_small`, `AP_medium`, `AP_large` (by area
        of the annotation, parted at 32² and 96² pixels); the same of recall as `AR`, `AR50`, ...; None where
        nothing of that size is annotated.
    """
    per_image = np.unique([truth["image_id"] for truth in truths], return_counts=True)[1]
    with redirect_stdout(io.StringIO()):  # the tool prints as it goes
        tool = COCOeval(_index(truths, image_ids), _index(_completed(results, kind), image_ids), kind)
        tool.params.maxDets = [1, 10, max(_MOST, int(per_image.max(initial=0)))]
        tool.evaluate()
        tool.accumulate()
    precision, recall = tool.eval["precision"], tool.eval["recall"]
    levels = [("", slice(None)), ("50", [0]), ("75", [5])]
    figures: dict[str, float | None] = {}
    for name, values in (("AP", precision[:, :, 0, :, -1]), ("AR", recall[:, 0, :, -1])):
        figures |= {f"{name}{level}": _mean(values[which][..., 0]) for level, which in levels}
        figures |= {f"{name}_{size}": _mean(values[..., at]) for at, size in enumerate(_SIZES) if at}
    return figures


def _completed(results: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Results with the fields the tool wants of its own."""

    def area(result: dict[str, Any]) -> float:
        return float(
            coco_mask.area(result["segmentation"]) if kind == "segm" else np.prod(result["bbox"][2:])
        )

    return [{**result, "category_id": 1, "iscrowd": 0, "area": area(result)} for result in results]


def _index(records: Sequence[dict[str, Any]], image_ids: Sequence[int]) -> COCO:
    """Records under ids of their own: the tool reads 0 as "no match", and of equal ids keeps one record."""
    index = COCO()
    unread = {"height": 0, "width": 0}  # an RLE has a size of its own
    index.dataset = {
        "images": [{"id": int(image_id), **unread} for image_id in image_ids],
        "annotations": [{**record, "id": number} for number, record in enumerate(records, 1)],
        "categories": [{"id": 1}],
    }
    index.createIndex()
    return index


def _mean(values: NDArray[np.float64]) -> float | None:
    """Of what the tool could measure; it gives -1 where there was nothing."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
