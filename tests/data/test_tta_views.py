"""A mirrored batch against what is laid out mirrored from the start; where crops of small ROIs lie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
from roiseg.geometry.transform import Letterbox


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


def test_images_rois_and_targets_are_those_of_the_mirrored_transform(build):
    data = build()
    dataset, annotations = data.dataset("val"), data.dataset("val").annotations
    for batch, mirrored in batches(data):
        assert torch.equal(mirrored.rois[:, 0], batch.rois[:, 0])
        assert (mirrored.rois[:, 3] > mirrored.rois[:, 1]).all()
        for there, here in zip(mirrored.original_boxes(), batch.original_boxes(), strict=True):
            np.testing.assert_allclose(there, here, atol=1e-4)
        by_sample = np.concatenate([sample.rois for sample in mirrored.samples])
        np.testing.assert_array_equal(by_sample, mirrored.rois[:, 1:].numpy())
        for n, sample in enumerate(mirrored.samples):
            image = read_image(dataset.image_dir / sample.file_name)
            rendered = data.views["val"].letterbox.apply(image, sample.transform)
            np.testing.assert_array_equal(mirrored.images[n].numpy(), rendered)
            assert not torch.equal(mirrored.images[n], batch.images[n])
            instances = annotations.instances(sample.image_index)
            outlines, crowd = annotations.outlines(sample.image_index), annotations.crowd[instances]
            target_index = np.flatnonzero(np.isin(annotations.ids[instances], sample.truth.annotation_ids))
            drawn = rasterize_targets(data.spec, outlines, crowd, sample.transform, sample.rois, target_index)
            own = mirrored.targets[mirrored.rois[:, 0] == n].numpy()
            assert (drawn == own).mean() > 0.995  # cells cut by an edge


@pytest.mark.parametrize("cached", [False, True])
def test_only_the_test_loader_mirrors_and_features_are_those_of_flipped_images(build, cached):
    data = build(tta=TTA(hflip=True), cache=MemoryCache(Half(), 1) if cached else None)
    loaders = [data.train_dataloader(), data.val_dataloader(), build().test_dataloader()]
    loaders += [build(tta=TTA(crop_scales=(1.2,), max_crop_share=0.75)).val_dataloader()]
    loaders += [build(tta=TTA(crop_scales=(50.0,))).test_dataloader()]  # no ROI is so small
    assert not any(batch.views for loader in loaders for batch in loader)
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


LETTERBOXES = [Letterbox((64, 96)), Letterbox((416, 416), "topleft"), Letterbox((128, 64), keep_aspect=False)]


@st.composite
def pictures(draw):
    """(H, W) of an image and boxes [R, 4] in it."""
    size = draw(st.tuples(st.integers(30, 900), st.integers(30, 900)))
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        spans = []
        for side in size[::-1]:
            start = draw(st.floats(0, side - 2))
            spans.append((start, draw(st.floats(start + 1, side))))
        boxes.append([spans[0][0], spans[1][0], spans[0][1], spans[1][1]])
    return size, np.array(boxes, np.float32).reshape(-1, 4)


@pytest.mark.parametrize("letterbox", LETTERBOXES, ids=["wide", "yolox", "stretched"])
@given(picture=pictures(), longest=st.floats(0.05, 0.75))
def test_every_small_roi_lies_wholly_in_one_crop_of_each_factor(letterbox, picture, longest):
    size, boxes = picture
    factors = (1.5, 2.0, 3.0)
    seen = np.zeros((len(factors), len(boxes)), int)
    fit = letterbox.fit(*size)
    for transform, rows in TTA(False, factors, longest).plan_crops(letterbox, size, boxes):
        zoom = transform.scale / fit.scale
        factor = int(np.argmin(np.abs(np.array(factors) - zoom)))
        enlarged = np.array(size) * (transform.scale_y, transform.scale_x)
        exact = np.array(size) * (fit.scale_y, fit.scale_x) * factors[factor]
        np.testing.assert_allclose(enlarged, exact.clip(1), atol=0.51)  # drawn in whole pixels
        seen[factor, rows] += 1
        inside = transform.boxes(boxes[rows])
        height, width = letterbox.size
        assert (inside[:, :2] >= -0.51).all()  # a shift is a whole pixel
        assert (inside[:, 2] <= width + 0.51).all() and (inside[:, 3] <= height + 0.51).all()
        assert transform.shift_x == round(transform.shift_x) and transform.shift_y == round(transform.shift_y)
    whole = fit.boxes(boxes)
    shares = ((whole[:, 2:] - whole[:, :2]) / letterbox.size[::-1]).max(axis=1, initial=0)
    for number, factor in enumerate(factors):
        clear = np.abs(shares * factor - longest) > 1e-4
        assert (seen[number][clear] == (shares * factor <= longest)[clear]).all()


def test_a_crop_shows_the_part_of_the_image_that_its_transform_says_and_neighbours_share_one():
    """An image whose colours are its coordinates."""
    rows, columns = np.mgrid[:240, :255].astype(np.uint8)
    picture = np.stack([columns, rows, np.zeros_like(rows)], axis=2)
    letterbox = Letterbox((80, 96))
    boxes = np.float32([[5, 5, 25, 30], [22, 7, 40, 33], [120, 100, 150, 130], [230, 200, 254, 239]])
    crops = TTA(False, (2.0, 3.0), 0.5).plan_crops(letterbox, (240, 255), boxes)
    assert [rows.tolist() for _, rows in crops][:3] == [[0, 1], [2], [3]]
    for transform, inside in crops:
        shown = letterbox.apply(picture, transform)
        for box in boxes[inside]:
            centre = (box[:2] + box[2:]) / 2
            x, y = (transform.points(centre) - 0.5).round().astype(int)
            assert shown[y, x, :2] == pytest.approx(centre - 0.5, abs=3)
