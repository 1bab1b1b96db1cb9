"""Predictions averaged over the whole image, crops of small ROIs and their mirror images."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers.decoders import target_probability
from tiny_run import EVERY, make, measured, run_test, tiny_data, tiny_extractor, tiny_module, tiny_trainer

from roiseg.data.tta import TTA
from roiseg.decoders.base import Context
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.memory import MemoryCache
from roiseg.geometry.transform import Letterbox
from roiseg.inference.tta import average_views

pytestmark = pytest.mark.filterwarnings("ignore")
CROPS = TTA(False, (1.2, 1.6), 0.75)


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return tiny_extractor(onnx_file, align="topleft")


def look(decoder, net, picture, transform, roi, pixel_size, grid, mirrored):
    """[K, h, w] probabilities of one ROI (original pixels) from one look at its image: on a grid over the ROI,
    or in the decoder's own frame."""
    image = Letterbox((64, 64), "topleft").apply(picture, transform)
    x1, y1, x2, y2 = transform.boxes(roi[None])[0]
    if mirrored:
        image, x1, x2 = image[:, ::-1], 64 - x2, 64 - x1
    pixels = torch.from_numpy(image[None].copy())
    rois = torch.tensor([[0, x1, y1, x2, y2]], dtype=torch.float32)
    context = Context(net.preprocess(pixels), torch.tensor([pixel_size / transform.scale]))
    with torch.no_grad():
        logits = decoder(net(pixels), rois, context).logits
        logits = logits if grid is None else decoder.roi_logits(logits, rois, grid)
    return (logits.flip(-1) if mirrored else logits).softmax(1)[0].numpy()


MIRROR = TTA(hflip=True)


@pytest.mark.parametrize(
    ("tta", "cached"),
    [(CROPS, False), (replace(CROPS, hflip=True), False), (MIRROR, True)],
    ids=["crops", "crops and mirror images", "mirror images, cached"],
)
@pytest.mark.parametrize("name", EVERY)
def test_probabilities_are_averaged_over_all_looks(name, tta, cached, extractor, coco_set, tmp_path):
    decoder = make(name, extractor)
    size = None if decoder.frame == "roi" else (24, 18)
    options = {"needs_images": "detail" in name, "metric_size": size, "tta": tta}
    cache = MemoryCache(Half(), 1) if cached else None
    data = tiny_data(coco_set, extractor, decoder, cache=cache, **options)
    module = tiny_module(decoder)
    logged, seen = run_test(module, data, tmp_path)
    if cached:  # now the plain images are in the cache
        cold, (logged, seen) = logged, run_test(module, data, tmp_path)
        assert logged == cold
    grid = (size or decoder.output_size) if tta.crop_scales else None
    pixel_sizes = data.dataset("val").annotations.pixel_sizes
    closer, ious, hits = 0, [], []
    for batch, outputs in seen:
        expected = []
        for sample, rois in zip(batch.samples, batch.original_boxes(), strict=True):
            picture = cv2.imread(str(coco_set.images / sample.file_name))[:, :, ::-1]
            pixel_size = float(pixel_sizes[sample.image_index])
            parts = tta.plan_crops(Letterbox((64, 64), "topleft"), sample.original_size, rois)
            for number, roi in enumerate(rois):
                transforms = [sample.transform, *(t for t, rows in parts if number in rows)]
                closer += len(transforms) - 1
                looks = [
                    look(decoder, extractor, picture, t, roi, pixel_size, grid, mirrored)
                    for t in transforms
                    for mirrored in {False, tta.hflip}
                ]
                expected.append(np.mean(looks, axis=0))
        expected = np.array(expected)
        np.testing.assert_allclose(outputs.prediction.target, expected[:, 1], atol=2e-3 if cached else 2e-4)
        windows = decoder.extents(batch.rois) if grid is None else batch.rois[:, 1:]
        assert torch.equal(outputs.prediction.extents, windows)
        records = [record._replace(mask_score=1.0) for record in outputs.records]  # scores: test_decision
        assert measured(outputs.prediction.target, batch, windows) == records
        ious += [record.iou for record in measured(torch.from_numpy(expected[:, 1]), batch, windows)]
        truth = batch.metric_targets.numpy()
        if decoder.frame == "roi":
            hits += (expected.argmax(axis=1) == truth)[truth != 255].tolist()
    assert (closer > 4) == bool(tta.crop_scales)
    assert logged["test/instance_iou"] == pytest.approx(np.mean(ious), abs=0.01)
    if hits:
        assert logged["test/pixel_accuracy"] == pytest.approx(np.mean(hits), abs=5e-3)


@pytest.mark.parametrize("name", ["roi", "image, detail"])
def test_without_mirroring_predictions_are_the_decoders_own_bit_for_bit(name, extractor, coco_set, tmp_path):
    decoder = make(name, extractor)
    size = None if decoder.frame == "roi" else (24, 18)
    options = {"needs_images": "detail" in name, "metric_size": size}
    module = tiny_module(decoder)
    data = tiny_data(coco_set, extractor, decoder, **options)
    logged, seen = run_test(module, data, tmp_path)
    for batch, outputs in seen:
        with torch.no_grad():
            assert torch.equal(outputs.prediction.target, target_probability(module(batch).logits))
    mirrored = tiny_data(coco_set, extractor, decoder, tta=TTA(hflip=True), **options)
    validated, of_other = (
        tiny_trainer(tmp_path).validate(module, datamodule=d, verbose=False)[0] for d in (data, mirrored)
    )
    assert validated == of_other == {key.replace("test/", "val/"): value for key, value in logged.items()}
    averaged, seen_averaged = run_test(module, mirrored, tmp_path)
    assert averaged["test/loss"] == logged["test/loss"]
    for (_, one), (_, both) in zip(seen, seen_averaged, strict=True):
        assert not torch.equal(one.prediction.target, both.prediction.target)


def test_sure_and_opposite_predictions_average_to_one_half(extractor, coco_set):
    """Softmax underflows to 0 and 1; no logarithm of 0 appears."""
    module = tiny_module(make("roi", extractor))
    data = tiny_data(coco_set, extractor, module.decoder, tta=TTA(hflip=True))
    batch = next(iter(data.test_dataloader()))
    logits = torch.tensor([0.0, 500.0, -500.0])[None, :, None, None].expand(len(batch.rois), 3, 14, 14)
    opposite = logits[:, [1, 0, 2]]
    mean = average_views(logits, batch, module.decoder, lambda mirrored: opposite, (14, 14)).logits
    assert torch.isfinite(mean).all()
    torch.testing.assert_close(target_probability(mean), torch.full((len(batch.rois), 14, 14), 0.5))
