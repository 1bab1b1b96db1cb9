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


@dataclass(frozen=True)
class DetectionEvaluation:
    """COCO figures of detector and model together."""

    images: int
    persons: int  # number of annotated persons, crowds excluded
    # COCO figures of the masks, see `average_precision`, ranked by the detector's score times the mask's
    # score
    masks: dict[str, float | None]
    masks_by_box: dict[str, float | None]  # the same, ranked by the detector's score
    # as `masks`, but masks match if the IoU of their boundaries is large enough, too (Cheng et al., 2021)
    boundary: dict[str, float | None]
    boxes: dict[str, float | None]  # of the detector's boxes
    results: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return everything but single masks, for JSON."""
        return {
            "images": self.images,
            "persons": self.persons,
            "detections": len(self.results),
            "average_precision": self.masks,
            "average_precision_ranked_by_box_score": self.masks_by_box,
            "boundary_average_precision": self.boundary,
            "average_precision_of_boxes": self.boxes,
            "mask_ap_over_box_ap": self.mask_share,
        }

    @property
    def mask_share(self) -> float | None:
        """Return the AP of the masks divided by that of the boxes they were predicted in; None if it is 0."""
        return self.masks["AP"] / self.boxes["AP"] if self.masks["AP"] and self.boxes["AP"] else None


def evaluate_detections(
    predictor: Predictor,
    annotations: Annotations,
    image_dir: Path,
    category_id: int = 1,
) -> DetectionEvaluation:
    """Detect and segment the persons in all images, with a progress bar; masks are kept as RLE.

    Every annotated person counts, however small, and so do images without persons.
    """
    masks: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    ground_truth: list[dict[str, Any]] = []
    for index in track(range(len(annotations)), "detecting and measuring"):
        image_id, size = int(annotations.image_ids[index]), annotations.size(index)
        image = read_image(image_path(image_dir, str(annotations.file_names[index])), size)
        predictor.set_image(image, float(annotations.pixel_sizes[index]))
        prediction = predictor.predict()
        scores = zip(prediction.scores.tolist(), prediction.mask_scores.tolist(), strict=True)
        for number, (score, mask_score) in enumerate(scores):
            box, rle = prediction.boxes[number], prediction.rle(number)
            boxes.append(coco_result(image_id, category_id, box, score, rle))
            masks.append(coco_result(image_id, category_id, box, score * mask_score, rle))
        persons = np.flatnonzero(~annotations.crowd[annotations.instances(index)])
        ground_truth += gt_records(annotations, index, persons.tolist())
    image_ids = annotations.image_ids.tolist()
    return DetectionEvaluation(
        len(image_ids),
        sum(not record["iscrowd"] for record in ground_truth),
        average_precision(ground_truth, masks, image_ids),
        average_precision(ground_truth, boxes, image_ids),
        average_precision(ground_truth, masks, image_ids, kind="boundary"),
        average_precision(ground_truth, boxes, image_ids, kind="bbox"),
        masks,
    )
