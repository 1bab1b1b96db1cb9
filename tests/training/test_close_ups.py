"""Predictions averaged over the whole image and crops of small ROIs."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tiny_looks import EVERY, make, measured, run_test, topleft_extractor
from tiny_run import one_thread, tiny_data, tiny_module

from roiseg.data.tta import TTA
from roiseg.decoders.base import Context
from roiseg.geometry.transform import Letterbox

pytestmark = pytest.mark.filterwarnings("ignore")
CROPS = TTA(False, (1.2, 1.6), 0.75)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return topleft_extractor(onnx_file)


def look(decoder, net, picture, transform, roi, pixel_size, grid, mirrored):
    """[K, h, w] probabilities on a grid over one ROI (original pixels), from one look at its image."""
    image = Letterbox((64, 64), "topleft").apply(picture, transform)
    x1, y1, x2, y2 = transform.boxes(roi[None])[0]
    if mirrored:
        image, x1, x2 = image[:, ::-1], 64 - x2, 64 - x1
    pixels = torch.from_numpy(image[None].copy())
    rois = torch.tensor([[0, x1, y1, x2, y2]], dtype=torch.float32)
    context = Context(net.preprocess(pixels), torch.tensor([pixel_size / transform.scale]))
    with torch.no_grad():
        logits = decoder(net(pixels), rois, context).logits
        probabilities = decoder.roi_logits(logits, rois, grid).softmax(1)
    return (probabilities.flip(-1) if mirrored else probabilities)[0].numpy()


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirror"])
@pytest.mark.parametrize("name", EVERY)
def test_probabilities_are_averaged_over_all_looks(name, mirror, extractor, coco_set, tmp_path):
    decoder = make(name, extractor)
    size = None if decoder.frame == "roi" else (24, 18)
    data = tiny_data(
        coco_set, extractor, decoder, needs_images="detail" in name, metric_size=size, tta=replace(CROPS, hflip=mirror)
    )  # fmt: skip
    module = tiny_module(decoder)
    logged, seen = run_test(module, data, tmp_path)
    grid = decoder.output_size if decoder.frame == "roi" else size
    closer = 0
    ious = []
    for batch, outputs in seen:
        got = iter(outputs.prediction.target.numpy())
        expected = []
        for sample, rois in zip(batch.samples, batch.original_boxes(), strict=True):
            picture = cv2.imread(str(coco_set.images / sample.file_name))[:, :, ::-1]
            annotations = data.dataset("val").annotations
            pixel_size = float(annotations.pixel_sizes[sample.image_index])
            whole = sample.transform
            parts = CROPS.plan_crops(Letterbox((64, 64), "topleft"), sample.original_size, rois)
            for number, roi in enumerate(rois):
                transforms = [whole, *(t for t, rows in parts if number in rows)]
                closer += len(transforms) - 1
                looks = [
                    look(decoder, extractor, picture, t, roi, pixel_size, grid, m)
                    for t in transforms
                    for m in ((False, True) if mirror else (False,))
                ]
                expected.append(np.mean(looks, axis=0)[1])
                np.testing.assert_allclose(next(got), expected[-1], atol=2e-4)
        records = measured(torch.from_numpy(np.array(expected)), batch, batch.rois[:, 1:])
        ious += [record.iou for record in records]
    assert closer > 4
    assert logged["test/instance_iou"] == pytest.approx(np.mean(ious), abs=0.01)


def test_close_ups_change_the_test_only_and_only_where_rois_are_small(extractor, coco_set, tmp_path):
    module = tiny_module(make("roi", extractor))
    plain, closer, none_small = (
        tiny_data(coco_set, extractor, module.decoder, tta=tta)
        for tta in (None, CROPS, TTA(crop_scales=(50.0,)))
    )
    logged = [run_test(module, data, tmp_path)[0] for data in (plain, closer, none_small)]
    assert logged[0] == logged[2]
    assert logged[0]["test/instance_iou"] != logged[1]["test/instance_iou"]
    assert logged[0]["test/loss"] == logged[1]["test/loss"]
    batches = [next(iter(data.val_dataloader())) for data in (plain, closer)]
    assert not any(batch.views for batch in batches)


def test_the_worst_are_drawn_as_they_were_measured(extractor, coco_set, tmp_path):
    """An image-frame decoder's averages lie on grids over the ROIs, not on the image."""
    module = tiny_module(make("image", extractor))
    data = tiny_data(coco_set, extractor, module.decoder, metric_size=(24, 18), tta=CROPS)
    _, seen = run_test(module, data, tmp_path)
    for batch, outputs in seen:
        if batch.views:
            assert torch.equal(outputs.prediction.extents, batch.rois[:, 1:])
            again = measured(outputs.prediction.target, batch, outputs.prediction.extents)
            assert again == outputs.records
