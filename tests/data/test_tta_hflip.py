"""A mirrored batch against images, ROIs and targets laid out mirrored from the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_dataset import count_extracted
from tiny_run import LAYER, tiny_data, tiny_decoder

from roiseg.data.batch import collate
from roiseg.data.images import read_image
from roiseg.data.targets import rasterize_targets
from roiseg.data.tta import TTA, hflip
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.memory import MemoryCache
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess


@pytest.fixture(scope="module", params=["topleft", "center"])
def build(request, coco_set, onnx_file):
    """Makes data whose letterbox pads on one side, or on both."""
    preprocess = Preprocess([64, 64], align=request.param, color="bgr")
    extractor = OnnxExtractor(str(onnx_file), [LAYER], preprocess, threads=1)

    def make(**options):
        data = tiny_data(coco_set, extractor, tiny_decoder(extractor), **options)
        data.setup()
        return data

    return make


def batches(data):
    """(batch, the same mirrored) without features."""
    samples = data.samples("val", range(5))
    found = [collate(samples[:2]), collate(samples[2:])]
    return [(batch, hflip(batch)) for batch in found]


def test_the_pictures_are_those_that_the_mirrored_transform_renders(build):
    data = build()
    for batch, mirrored in batches(data):
        for sample, plain, picture in zip(mirrored.samples, batch.images, mirrored.images, strict=True):
            image = read_image(data.dataset("val").image_dir / sample.file_name)
            rendered = data.views["val"].letterbox.apply(image, sample.transform)
            np.testing.assert_array_equal(picture.numpy(), rendered)
            assert not torch.equal(picture, plain)


def test_rois_are_the_annotated_boxes_in_the_mirrored_picture(build):
    for batch, mirrored in batches(build()):
        assert torch.equal(mirrored.rois[:, 0], batch.rois[:, 0])
        assert (mirrored.rois[:, 3] > mirrored.rois[:, 1]).all()
        for there, here in zip(mirrored.original_boxes(), batch.original_boxes(), strict=True):
            np.testing.assert_allclose(there, here, atol=1e-4)
        by_sample = np.concatenate([sample.rois for sample in mirrored.samples])
        np.testing.assert_array_equal(by_sample, mirrored.rois[:, 1:].numpy())


def test_targets_are_those_drawn_in_the_mirror(build):
    data = build()
    dataset = data.dataset("val")
    for _, mirrored in batches(data):
        ids = dataset.annotations.ids
        for n, sample in enumerate(mirrored.samples):
            instances = dataset.annotations.instances(sample.image_index)
            target_index = np.array([list(ids[instances]).index(i) for i in sample.truth.annotation_ids])
            drawn = rasterize_targets(
                data.spec,
                outlines=dataset.annotations.outlines(sample.image_index),
                crowd=dataset.annotations.crowd[instances],
                transform=sample.transform,
                rois=sample.rois,
                target_index=target_index,
            )
            mine = mirrored.rois[:, 0] == n
            assert (drawn == mirrored.targets[mine].numpy()).mean() > 0.995  # cells cut by an edge


def test_a_batch_mirrored_twice_is_the_batch_which_stays_as_it_is(build):
    for batch, mirrored in batches(build()):
        assert all(sample.transform.scale_x > 0 for sample in batch.samples)
        again = hflip(mirrored)
        assert torch.equal(again.images, batch.images)
        assert torch.equal(again.targets, batch.targets)
        assert torch.equal(again.metric_targets, batch.metric_targets)
        torch.testing.assert_close(again.rois, batch.rois, atol=1e-5, rtol=0)
        assert [sample.transform for sample in again.samples] == [s.transform for s in batch.samples]


@pytest.mark.parametrize("cached", [False, True])
def test_only_the_test_loader_mirrors_and_features_are_those_of_flipped_images(build, cached):
    data = build(tta=TTA(hflip=True), cache=MemoryCache(Half(), 1) if cached else None)
    for loader in (data.train_dataloader(), data.val_dataloader(), build().test_dataloader()):
        assert not any(batch.views for batch in loader)
    for plain, batch in zip(data.val_dataloader(), data.test_dataloader(), strict=True):
        assert torch.equal(batch.features[0], plain.features[0])
        expected = data.extractor(batch.images.flip(2))[0]
        (flipped,) = batch.views
        assert torch.equal(flipped.features[0], expected)
        assert flipped.hflipped and not flipped.views


@pytest.mark.parametrize("workers", [0, 1])
def test_mirroring_costs_one_run_of_the_extractor_per_image(build, workers, monkeypatch):
    data = build(tta=TTA(hflip=True), cache=MemoryCache(Half(), 1), num_workers=workers)
    monkeypatch.setattr(data.extractor, "run", data.extractor.run)  # put back afterwards
    extracted = count_extracted(data.extractor)
    list(data.test_dataloader())
    assert sum(extracted) == 10
    list(data.test_dataloader())
    assert sum(extracted) == 15
    assert data.cache.counts == {"computed": 5, "hit": 5}
