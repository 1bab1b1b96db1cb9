"""COCO's average precision of masks and boxes (Lin et al., 2014), and the COCO records it compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.data.annotations import Annotations
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.rle import encode_window
from roiseg.metrics.instance import PastedMask

_MAX_DETECTIONS = 100  # results per image that count, as in COCO; more only if more persons are annotated
_AREAS = ("all", "small", "medium", "large")


def gt_records(annotations: Annotations, image: int, instances: Iterable[int]) -> list[dict[str, Any]]:
    """Return the COCO annotations of some instances of an image (by position in it), and of all its crowds.

    `area`, which decides the size class, is that of the mask in whole pixels.
    """
    positions, outlines = annotations.instances(image), annotations.outlines(image)
    wanted = {int(i) for i in instances} | {int(i) for i in np.flatnonzero(annotations.crowd[positions])}
    records = []
    for position in sorted(wanted):
        rle = outlines.rle(position)
        records.append({
            "id": int(annotations.ids[positions[position]]),
            "image_id": int(annotations.image_ids[image]),
            "category_id": 1,
            "iscrowd": int(annotations.crowd[positions[position]]),
            "segmentation": rle,
            "area": float(coco_mask.area(rle)),
            "bbox": coco_mask.toBbox(rle).tolist(),
        })  # fmt: skip
    return records


def coco_result(
    image_id: int, category_id: int, box: Boxes, score: float, rle: dict[str, Any]
) -> dict[str, Any]:
    """Return a COCO result.

    Args:
        box: [4] x1, y1, x2, y2 in original pixels.
        rle: mask at the image's size; `counts` as bytes or text.
    """
    x1, y1, x2, y2 = (round(float(edge), 3) for edge in box)
    counts = rle["counts"]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
        "score": round(score, 6),
        "segmentation": {
            "size": list(rle["size"]),
            "counts": counts if isinstance(counts, str) else counts.decode("ascii"),
        },
    }


def mask_result(pasted: PastedMask, category_id: int, score: float) -> dict[str, Any]:
    """Return a pasted mask as a COCO result whose box is its ROI."""
    rle = encode_window(pasted.mask, pasted.window, pasted.sample.original_size)
    return coco_result(pasted.sample.image_id, category_id, pasted.roi, score, rle)


def average_precision(
    ground_truth: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    kind: str = "segm",
) -> dict[str, float | None]:
    """Compute average precision and recall over all images.

    Args:
        ground_truth: COCO annotations of one category; their ids are ignored. Results inside a crowd count
            neither for nor against.
        results: COCO results of that category: `image_id`, `segmentation` (RLE), `bbox`, `score`.
        image_ids: all evaluated images, including those without annotations or results.
        kind: "segm" compares masks, "bbox" boxes, "boundary" masks and their boundaries (Cheng et al., 2021).

    Returns:
        `AP`: mean over IoU 0.50, 0.55 ... 0.95; `AP50`, `AP75`; `AP_small`, `AP_medium`, `AP_large` (by
        annotated area, split at 32² and 96² pixels); the same for recall as `AR`, `AR50`, ...; None where
        nothing of that size is annotated.
    """
    per_image = np.unique([record["image_id"] for record in ground_truth], return_counts=True)[1]
    completed = [{**result, "iscrowd": 0, "area": _area(result, kind)} for result in results]
    truth, found = _index(ground_truth, image_ids), _index(completed, image_ids)
    evaluation = COCOeval_faster(truth, found, kind, print_function=lambda text: None, boundary_cpu_count=1)
    evaluation.params.maxDets = [1, 10, max(_MAX_DETECTIONS, int(per_image.max(initial=0)))]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    levels = [("", slice(None)), ("50", [0]), ("75", [5])]
    figures: dict[str, float | None] = {}
    for name, values in (("AP", precision[:, :, 0, :, -1]), ("AR", recall[:, 0, :, -1])):
        figures |= {f"{name}{level}": _mean(values[ious][..., 0]) for level, ious in levels}
        figures |= {f"{name}_{area}": _mean(values[..., at]) for at, area in enumerate(_AREAS) if at}
    return figures


def _area(result: dict[str, Any], kind: str) -> float:
    return float(np.prod(result["bbox"][2:]) if kind == "bbox" else coco_mask.area(result["segmentation"]))


def _index(records: Sequence[dict[str, Any]], image_ids: Sequence[int]) -> COCO:
    """Index records under new ids: COCO's matching reads id 0 as "no match" and keeps one of equal ids.

    Image sizes are not needed: every RLE has its own.
    """
    index = COCO()
    index.dataset = {
        "images": [{"id": int(image_id), "height": 0, "width": 0} for image_id in image_ids],
        "annotations": [
            {**record, "category_id": 1, "id": number} for number, record in enumerate(records, 1)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    index.createIndex()
    return index


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the measured values; -1 marks those where nothing is annotated."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None
