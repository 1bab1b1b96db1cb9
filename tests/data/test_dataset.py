"""Items of training and evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import person, write_coco
from tiny_dataset import AUGMENT, IMAGE_FRAME, METRIC, SIZE, SPEC, make

from roiseg.common.errors import UserError
from roiseg.data.augment import Augment, GeometricAugment
from roiseg.data.batch import collate
from roiseg.data.feature_loader import FeatureLoader
from roiseg.data.samplers import EpochSampler, RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox


def assert_same(a, b):
    assert (a.image_index, a.file_name, a.transform, a.original_size) == (
        b.image_index, b.file_name, b.transform, b.original_size,
    )  # fmt: skip
    for name in ("image", "rois", "targets"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.truth.rles == b.truth.rles


# --- an item depends on seed, epoch and index only ------------------------------------------------


def test_an_item_is_the_same_whatever_ran_before(training, coco_set):
    other = make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=4)
    keys = [(epoch, n) for epoch in (0, 3) for n in range(len(training))]
    first = {key: training[key] for key in keys}
    np.random.default_rng(0).shuffle(keys)
    torch.manual_seed(17)
    for key in keys:
        assert_same(first[key], other[key])


def test_an_index_alone_means_epoch_0(training):
    assert_same(training[2], training[0, 2])


def test_epochs_seeds_and_images_differ(training, coco_set):
    other = make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=5)
    for n in range(len(training)):
        assert (training[0, n].image != training[1, n].image).any()
        assert (training[0, n].image != other[0, n].image).any()
        assert (training[0, n].rois != training[1, n].rois).any()


def test_workers_give_the_same_batches_as_the_main_process(training):
    def batches(workers):
        sampler = EpochSampler(len(training), seed=1, shuffle=True)
        sampler.set_epoch(2)
        loader = FeatureLoader(
            training, lambda batch: batch, batch_size=2, sampler=sampler, collate_fn=collate,
            num_workers=workers,
        )  # fmt: skip
        return list(loader)

    alone = batches(0)
    for workers in (1, 2):
        for want, got in zip(alone, batches(workers), strict=True):
            for name in ("images", "rois", "targets"):
                assert torch.equal(getattr(want, name), getattr(got, name))
            assert [s.file_name for s in want.samples] == [s.file_name for s in got.samples]
            assert [s.transform for s in want.samples] == [s.transform for s in got.samples]


# --- training items -------------------------------------------------------------------------------


def test_a_training_item_has_k_rois_within_the_input(training):
    for epoch in range(5):
        for n in range(len(training)):
            sample = training[epoch, n]
            assert sample.image.shape == (*SIZE, 3)
            assert sample.rois.shape == (3, 4)
            assert sample.targets.shape == (3, 14, 14)
            assert (sample.rois >= 0).all()
            assert (sample.rois <= 64).all()
            assert (sample.rois[:, 2:] - sample.rois[:, :2] > 1).all()
            assert not sample.truth.rles


def test_every_roi_shows_its_target_in_any_view(training):
    shares = [
        (target == 1).mean()
        for epoch in range(10)
        for n in range(len(training))
        for target in training[epoch, n].targets
    ]
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


# --- evaluation items -----------------------------------------------------------------------------


def test_images_without_a_roi_are_no_items(evaluation):
    names = [evaluation[n].file_name for n in range(len(evaluation))]
    assert names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert evaluation.num_rois == 10


def test_evaluation_gives_every_eligible_box_exactly_and_in_order(evaluation):
    annotations = evaluation.annotations
    for n in range(len(evaluation)):
        sample = evaluation[n]
        eligible = annotations.eligible(sample.image_index, 16)
        want = Letterbox(SIZE).fit(*sample.original_size).boxes(annotations.pixel_boxes(sample.image_index))
        np.testing.assert_array_equal(sample.rois, want[eligible])
        assert_same(sample, evaluation[7, n])  # the epoch changes nothing


def test_evaluation_carries_the_true_masks_at_the_original_size(evaluation):
    annotations = evaluation.annotations
    for n in range(len(evaluation)):
        sample = evaluation[n]
        target_index = annotations.eligible(sample.image_index, 16)
        outlines = annotations.outlines(sample.image_index)
        assert sample.truth.rles == [outlines.rle(int(i)) for i in target_index]
        assert all(tuple(truth["size"]) == sample.original_size for truth in sample.truth.rles)


@pytest.mark.parametrize("spec", [METRIC, IMAGE_FRAME], ids=["roi", "image"])
def test_evaluation_measures_on_the_metric_grid_over_each_roi_whatever_the_frame(coco_set, spec):
    reference = make(coco_set, spec=TargetSpec("roi", (20, 12), 3, SIZE))
    dataset = make(coco_set, spec=spec)
    for n in range(len(dataset)):
        sample, want = dataset[n], reference[n]
        assert sample.targets.shape == (len(sample.rois), *spec.size)
        np.testing.assert_array_equal(sample.truth.metric_targets, want.targets)
        np.testing.assert_array_equal(sample.rois, want.rois)
        assert sample.truth.rles == want.truth.rles


def test_a_map_over_the_input_of_the_metric_size_is_not_taken_for_the_metric_grid(coco_set):
    spec = replace(IMAGE_FRAME, size=(20, 12))
    sample = make(coco_set, spec=spec)[0]
    assert (sample.truth.metric_targets != sample.targets).any()
    np.testing.assert_array_equal(
        sample.truth.metric_targets, make(coco_set, spec=IMAGE_FRAME)[0].truth.metric_targets
    )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_crowding_is_known_with_two_classes_too(coco_set, num_classes):
    dataset, full = (make(coco_set, spec=replace(METRIC, num_classes=n)) for n in (num_classes, 3))
    for number in range(5):
        sample, labels = dataset[number], full[number].truth.metric_targets
        np.testing.assert_allclose(sample.truth.non_target_shares, (labels == 2).mean(axis=(1, 2)))
        np.testing.assert_array_equal(
            sample.truth.metric_targets, np.where(labels == 2, 2 * (num_classes > 2), labels)
        )
        first = dataset.annotations.first[sample.image_index]
        target_index = dataset.annotations.eligible(sample.image_index, 16)
        np.testing.assert_array_equal(
            sample.truth.annotation_ids, dataset.annotations.ids[first + target_index]
        )
    assert max(dataset[number].truth.non_target_shares.max() for number in range(5)) > 0.05


@pytest.mark.parametrize("spec", [SPEC, METRIC, IMAGE_FRAME], ids=["no metric grid", "roi", "image"])
def test_nothing_is_measured_in_training(coco_set, spec):
    sample = make(coco_set, spec=spec, sampler=RoiSampler(3))[0]
    assert len(sample.truth.metric_targets) == 0
    assert sample.targets.shape == (3, *spec.size)
    assert collate([sample, sample]).metric_targets.shape[0] == 0


# --- pixel sizes ----------------------------------------------------------------------------------


@pytest.fixture
def measured_set(broken_set):
    """The tiny set, its images 0.5, 1, 1.5, ... micrometres a pixel."""
    content = broken_set.content()
    for number, image in enumerate(content["images"]):
        image["pixel_size_um"] = 0.5 + 0.5 * number
    broken_set.json.write_text(json.dumps(content))
    return broken_set


def test_the_pixel_size_is_that_of_an_input_pixel(measured_set, coco_set):
    for n, (micrometres, unknown) in enumerate(zip(make(measured_set), make(coco_set), strict=True)):
        height, width = unknown.original_size
        shrunk = 64 / max(height, width)  # the letterbox; to whole pixels, hence the tolerance
        assert unknown.pixel_size == pytest.approx(1 / shrunk, rel=0.01)
        assert micrometres.pixel_size == pytest.approx((0.5 + 0.5 * n) / shrunk, rel=0.01)


def test_a_stretched_picture_has_the_pixel_size_of_equal_area(measured_set):
    sample = make(measured_set, letterbox=Letterbox(SIZE, keep_aspect=False))[0]
    assert sample.original_size == (80, 100)
    assert sample.pixel_size == pytest.approx(0.5 * (80 / 64 * 100 / 64) ** 0.5)


def test_a_batch_has_a_pixel_size_an_image(measured_set):
    samples = [make(measured_set)[n] for n in (2, 0, 1)]
    batch = collate(samples)
    assert batch.pixel_sizes.dtype == torch.float32
    assert batch.pixel_sizes.tolist() == pytest.approx([s.pixel_size for s in samples])


# --- the number of items --------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "images", "rois"), [(0, 5, 11), (16, 5, 10), (30, 5, 7), (35, 4, 5)])
def test_the_least_roi_size_decides_what_is_an_item(coco_set, least, images, rois):
    dataset = make(coco_set, min_roi_size=least)
    assert len(dataset) == images
    assert dataset.num_rois == rois == sum(len(dataset[n].rois) for n in range(images))


def test_a_set_without_a_large_enough_person_says_so(coco_set):
    with pytest.raises(UserError, match=r"both sides of 500 pixels.*data\.min_roi_size"):
        make(coco_set, min_roi_size=500)


def test_images_may_lie_in_subfolders(tmp_path):
    instances = [{"file": "sub/a.png", "segmentation": person(30, 5, 50)}]
    dataset = make(write_coco(tmp_path, {"sub/a.png": (60, 60)}, instances))
    assert dataset[0].file_name == "sub/a.png"
