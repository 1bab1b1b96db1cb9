"""A model measured on what the frozen detector finds by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roiseg.common.console import track
from roiseg.common.files import image_path
from roiseg.data.annotations import Annotations
from roiseg.data.images import read_image
from roiseg.evaluation.coco_results import coco_result
from roiseg.inference.predictor import Predictor
from roiseg.metrics.average_precision import average_precision, truth_records
from roiseg.metrics.instance import mask_quality


@dataclass(frozen=True)
class DetectionEvaluation:
    """What detector and model are worth together.

    Attributes:
        images, persons: annotated; crowds, which count neither for nor against, aside.
        masks: COCO's figures of the masks, see `average_precision`.
        boxes: the same of the detector's boxes.
        results: every mask as COCO result.
    """

    images: int
    persons: int
    masks: dict[str, float | None]
    boxes: dict[str, float | None]
    results: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """For json, single masks aside."""
        return {
            "images": self.images,
            "persons": self.persons,
            "found": len(self.results),
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
    """Detect and draw the persons of all images, under a progress bar. Masks are kept as RLE only.

    Every annotated person counts, however small, and so do images without any.

    Args:
        predictor: with a detector.
        annotations: the truth.
        image_dir: folder of the images.
        by_quality: masks are ranked by the detector's score times `mask_quality`; else by the score alone.
            Boxes always are by the score.
        category_id: of the annotations, and so of the results.
    """
    masks: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    for image in track(range(len(annotations)), "detecting and measuring"):
        image_id, size = int(annotations.image_ids[image]), annotations.size(image)
        picture = read_image(image_path(image_dir, str(annotations.file_names[image])), size)
        predictor.set_image(picture, float(annotations.pixel_sizes[image]))
        prediction = predictor.predict()
        for index, (box, score) in enumerate(zip(prediction.boxes, prediction.scores.tolist(), strict=True)):
            found = coco_result(image_id, category_id, box, score, prediction.rle(index))
            quality = mask_quality(prediction.probabilities[index]) if by_quality else 1.0
            boxes.append(found)
            masks.append({**found, "score": round(score * quality, 6)})
        persons = np.flatnonzero(~annotations.crowd[annotations.instances(image)])
        truths += truth_records(annotations, image, persons.tolist())
    image_ids = annotations.image_ids.tolist()
    return DetectionEvaluation(
        len(image_ids),
        sum(not truth["iscrowd"] for truth in truths),
        average_precision(truths, masks, image_ids),
        average_precision(truths, boxes, image_ids, kind="bbox"),
        masks,
    )
