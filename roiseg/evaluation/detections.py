"""Evaluation of detector and model together, on the boxes that the detector finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roiseg.common.console import track
from roiseg.common.files import image_path
from roiseg.data.annotations import Annotations
from roiseg.data.images import read_image
from roiseg.inference.predictor import Predictor
from roiseg.metrics.average_precision import average_precision, coco_result, gt_records
from roiseg.metrics.instance import mask_quality


@dataclass(frozen=True)
class DetectionEvaluation:
    """COCO figures of detector and model together.

    Attributes:
        images: number of images.
        persons: number of annotated persons, crowds excluded.
        masks: COCO figures of the masks, see `average_precision`.
        boxes: the same for the detector's boxes.
        results: every mask as a COCO result.
    """

    images: int
    persons: int
    masks: dict[str, float | None]
    boxes: dict[str, float | None]
    results: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return everything but single masks, for JSON."""
        return {
            "images": self.images,
            "persons": self.persons,
            "detections": len(self.results),
            "average_precision": self.masks,
            "average_precision_of_boxes": self.boxes,
        }


def evaluate_detections(
    predictor: Predictor,
    annotations: Annotations,
    image_dir: Path,
    by_quality: bool = True,
    category_id: int = 1,
) -> DetectionEvaluation:
    """Detect and segment the persons in all images, with a progress bar; masks are kept as RLE.

    Every annotated person counts, however small, and so do images without persons.

    Args:
        predictor: predictor with a detector.
        annotations: ground truth.
        image_dir: folder of the images.
        by_quality: rank masks by the detector's score times `mask_quality`; False: by the score alone, as
            boxes always are.
        category_id: category of the annotations and of the results.
    """
    masks: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    ground_truth: list[dict[str, Any]] = []
    for index in track(range(len(annotations)), "detecting and measuring"):
        image_id, size = int(annotations.image_ids[index]), annotations.size(index)
        image = read_image(image_path(image_dir, str(annotations.file_names[index])), size)
        predictor.set_image(image, float(annotations.pixel_sizes[index]))
        prediction = predictor.predict()
        for number, (box, score) in enumerate(zip(prediction.boxes, prediction.scores.tolist(), strict=True)):
            result = coco_result(image_id, category_id, box, score, prediction.rle(number))
            quality = mask_quality(prediction.probabilities[number]) if by_quality else 1.0
            boxes.append(result)
            masks.append({**result, "score": round(score * quality, 6)})
        persons = np.flatnonzero(~annotations.crowd[annotations.instances(index)])
        ground_truth += gt_records(annotations, index, persons.tolist())
    image_ids = annotations.image_ids.tolist()
    return DetectionEvaluation(
        len(image_ids),
        sum(not record["iscrowd"] for record in ground_truth),
        average_precision(ground_truth, masks, image_ids),
        average_precision(ground_truth, boxes, image_ids, kind="bbox"),
        masks,
    )
