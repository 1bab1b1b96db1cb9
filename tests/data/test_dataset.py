"""Items of training and evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import person, write_coco
from tiny_dataset import IMAGE_FRAME, METRIC, SIZE, SPEC, assert_same_item, make

from roiseg.data.augment import Augment, GeometricAugment
from roiseg.data.batch import collate
from roiseg.data.samplers import RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox


def test_a_training_item_has_k_rois_within_the_input_which_show_their_targets(training):
    shares = []
    for sample in (training[epoch, n] for epoch in range(10) for n in range(len(training))):
        assert sample.image.shape == (*SIZE, 3)
        assert sample.rois.shape == (3, 4)
        assert sample.targets.shape == (3, 14, 14)
        assert (sample.rois >= 0).all()
        assert (sample.rois <= 64).all()
        assert (sample.rois[:, 2:] - sample.rois[:, :2] > 1).all()
        shares += [(target == 1).mean() for target in sample.targets]
    assert min(shares) > 0.05
    assert 0.3 < np.mean(shares) < 0.95


def test_a_view_that_shows_nobody_is_not_used(tmp_path):
    """One small person in a corner, zoomed in fourfold: most views miss it."""
    instances = [{"file": "a.png", "segmentation": person(14, 4, 34)}]
    files = write_coco(tmp_path, {"a.png": (160, 160)}, instances)
    augment = Augment(GeometricAugment(flip=0.5, scale=(4.0, 4.0)))
    dataset = make(files, sampler=RoiSampler(2), augment=augment)
    for epoch in range(25):
        sample = dataset[epoch, 0]
        assert (sample.targets == 1).any(axis=(1, 2)).all()
        box = sample.transform.boxes(dataset.annotations.pixel_boxes(0))[0]
        seen = np.clip(box, 0, 64)
        assert (seen[2:] - seen[:2]).prod() >= 0.39 * (box[2:] - box[:2]).prod()


@pytest.mark.parametrize("spec", [SPEC, METRIC, IMAGE_FRAME], ids=["no metric grid", "roi", "image"])
def test_nothing_is_measured_in_training(coco_set, spec):
    sample = make(coco_set, spec=spec, sampler=RoiSampler(3))[0]
    assert not sample.truth.rles
    assert len(sample.truth.metric_targets) == 0
    assert sample.targets.shape == (3, *spec.size)
    assert collate([sample, sample]).metric_targets.shape[0] == 0


def test_evaluation_gives_every_eligible_box_exactly_and_in_order_with_its_true_mask(evaluation):
    annotations = evaluation.annotations
    samples = [evaluation[n] for n in range(len(evaluation))]
    assert [sample.file_name for sample in samples] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    for n, sample in enumerate(samples):
        index = sample.image_index
        eligible, outlines = annotations.eligible(index, 16), annotations.outlines(index)
        want = Letterbox(SIZE).fit(*sample.original_size).boxes(annotations.pixel_boxes(index))
        np.testing.assert_array_equal(sample.rois, want[eligible])
        assert sample.truth.rles == [outlines.rle(int(i)) for i in eligible]
        assert all(tuple(rle["size"]) == sample.original_size for rle in sample.truth.rles)
        assert_same_item(sample, evaluation[7, n])  # the epoch changes nothing


SAME_SIZE = replace(IMAGE_FRAME, size=(20, 12))  # a map over the input that is as large as the metric grid


@pytest.mark.parametrize("spec", [METRIC, IMAGE_FRAME, SAME_SIZE], ids=["roi", "image", "same size"])
def test_evaluation_measures_on_the_metric_grid_over_each_roi_whatever_the_frame(coco_set, spec):
    reference = make(coco_set, spec=TargetSpec("roi", (20, 12), 3, SIZE))
    dataset = make(coco_set, spec=spec)
    for n in range(len(dataset)):
        sample, want = dataset[n], reference[n]
        assert sample.targets.shape == (len(sample.rois), *spec.size)
        np.testing.assert_array_equal(sample.truth.metric_targets, want.targets)
        np.testing.assert_array_equal(sample.rois, want.rois)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_crowding_is_known_with_two_classes_too(coco_set, num_classes):
    dataset, full = (make(coco_set, spec=replace(METRIC, num_classes=n)) for n in (num_classes, 3))
    annotations, shares = dataset.annotations, []
    for sample, want in zip((dataset[n] for n in range(5)), (full[n] for n in range(5)), strict=True):
        labels, truth = want.truth.metric_targets, sample.truth
        np.testing.assert_allclose(truth.non_target_shares, (labels == 2).mean(axis=(1, 2)))
        np.testing.assert_array_equal(
            truth.metric_targets, np.where(labels == 2, 2 * (num_classes > 2), labels)
        )
        eligible = annotations.first[sample.image_index] + annotations.eligible(sample.image_index, 16)
        np.testing.assert_array_equal(truth.annotation_ids, annotations.ids[eligible])
        shares += list(truth.non_target_shares)
    assert max(shares) > 0.05


def test_the_pixel_size_is_that_of_an_input_pixel(broken_set, coco_set):
    """Images of 0.5, 1, 1.5, ... micrometres a pixel."""
    content = broken_set.content()
    for number, image in enumerate(content["images"]):
        image["pixel_size_um"] = 0.5 + 0.5 * number
    broken_set.json.write_text(json.dumps(content))
    samples = list(make(broken_set))
    for n, (micrometres, unknown) in enumerate(zip(samples, make(coco_set), strict=True)):
        height, width = unknown.original_size
        shrunk = 64 / max(height, width)  # the letterbox; to whole pixels, hence the tolerance
        assert unknown.pixel_size == pytest.approx(1 / shrunk, rel=0.01)
        assert micrometres.pixel_size == pytest.approx((0.5 + 0.5 * n) / shrunk, rel=0.01)
    batch = collate(samples)
    assert batch.pixel_sizes.dtype == torch.float32
    assert batch.pixel_sizes.tolist() == pytest.approx([s.pixel_size for s in samples])
    stretched = make(broken_set, letterbox=Letterbox(SIZE, keep_aspect=False))[0]
    assert stretched.original_size == (80, 100)
    assert stretched.pixel_size == pytest.approx(0.5 * (80 / 64 * 100 / 64) ** 0.5)  # of equal area
