"""What is counted of a detector's finds, with one whose finds are known."""

import cv2
import numpy as np
import pytest
from helpers import segmentation_mask

from roiseg.data.annotation_loading import load_annotations
from roiseg.evaluation.detections import evaluate_detections
from roiseg.inference.prediction import Prediction


class KnownPredictor:
    """Finds chosen annotations exactly; images come in the order of the file."""

    def __init__(self, coco_set, found, scores=None, sure=1.0):
        content = coco_set.content()
        self.images = iter(content["images"])
        self.annotations = [a for a in content["annotations"] if a["id"] in found]
        self.scores, self.sure = scores or {}, sure
        self.sure_of, self.change = {}, lambda mask: mask

    def set_image(self, image, pixel_size):
        self.image = next(self.images)
        assert image.shape == (self.image["height"], self.image["width"], 3) and pixel_size == 1

    def predict(self):
        size = self.image["height"], self.image["width"]
        here = [a for a in self.annotations if a["image_id"] == self.image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in here)]
        masks = [self.change(segmentation_mask(a["segmentation"], *size).astype(np.float32)) for a in here]
        scores = [self.scores.get(a["id"], 0.5) for a in here]
        return Prediction(
            size, np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
            np.array([self.sure_of.get(a["id"], self.sure) for a in here], np.float32),
            [(0, 0, size[1], size[0])] * len(here), masks,
        )  # fmt: skip


@pytest.fixture
def persons(coco_set):
    return [a["id"] for a in coco_set.content()["annotations"] if a["category_id"] == 1 and not a["iscrowd"]]


@pytest.fixture
def dog(coco_set):
    return next(a["id"] for a in coco_set.content()["annotations"] if a["category_id"] == 18)


def run(coco_set, predictor):
    return evaluate_detections(predictor, load_annotations(coco_set.json), coco_set.images)


def test_all_persons_or_some_found_exactly_small_ones_and_empty_images_included(coco_set, persons):
    found = run(coco_set, KnownPredictor(coco_set, persons))
    assert (found.images, found.persons, len(found.results)) == (6, len(persons), len(persons))
    for name in ("AP", "AP50", "AP75", "AR"):
        assert found.masks[name] == pytest.approx(1) and found.boxes[name] == pytest.approx(1)
    found = run(coco_set, KnownPredictor(coco_set, persons[:3]))
    assert found.masks["AR"] == pytest.approx(3 / len(persons))
    assert found.masks["AP"] == pytest.approx(np.mean(np.linspace(0, 1, 101) <= 3 / len(persons)))


def test_another_category_is_wrong_and_ranks_by_its_score(coco_set, persons, dog):
    last = run(coco_set, KnownPredictor(coco_set, [*persons, dog], {dog: 0.1}))
    first = run(coco_set, KnownPredictor(coco_set, [*persons, dog], {dog: 0.9}))
    assert last.masks["AP"] == pytest.approx(1)
    assert first.masks["AP"] < 0.95


def test_masks_rank_by_the_detectors_score_times_their_own(coco_set, persons, dog):
    found = run(coco_set, KnownPredictor(coco_set, persons, sure=0.75))
    assert [one["score"] for one in found.results] == pytest.approx([0.5 * 0.75] * len(persons))
    unsure = KnownPredictor(coco_set, [*persons, dog], {dog: 0.9})
    unsure.sure_of = {dog: 0.1}
    found = run(coco_set, unsure)
    assert found.masks["AP"] == pytest.approx(1) and found.masks_by_box["AP"] < 0.95
    assert found.boxes == run(coco_set, KnownPredictor(coco_set, [*persons, dog], {dog: 0.9})).boxes


def test_boundaries_match_less_well_than_masks_and_nothing_found_scores_0(coco_set, persons):
    exact = run(coco_set, KnownPredictor(coco_set, persons))
    assert exact.boundary["AP"] == pytest.approx(1) and exact.mask_share == pytest.approx(1)
    eroded = KnownPredictor(coco_set, persons)
    eroded.change = lambda mask: cv2.erode(mask, np.ones((5, 5), np.uint8))
    found = run(coco_set, eroded)
    assert found.boundary["AP"] < found.masks["AP"] < 1
    assert found.mask_share == pytest.approx(found.masks["AP"])
    found = run(coco_set, KnownPredictor(coco_set, []))
    assert found.mask_share is None and found.results == [] and found.masks["AP"] == found.boxes["AR"] == 0
