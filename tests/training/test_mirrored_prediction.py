"""Predictions averaged over an image and its mirror image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_looks import EVERY, make, measured, run_test, topleft_extractor
from tiny_run import one_thread, tiny_data, tiny_module, tiny_trainer
from torch import nn
from torch.nn import functional as F

from roiseg.data.tta import TTA
from roiseg.decoders.base import Context, Decoder, DecoderOutput, target_probability
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.memory import MemoryCache
from roiseg.geometry.roi_align import roi_align
from roiseg.inference.tta import average_views

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return topleft_extractor(onnx_file)


class PictureDecoder(Decoder):
    """Labels by colour: what it says of a mirrored image is the mirror image of what it says of the image."""

    def __init__(self, extractor, frame):
        size = (14, 14) if frame == "roi" else (32, 32)
        super().__init__(extractor.channels, extractor.strides, (64, 64), 3, frame, size)
        self.label = nn.Conv2d(3, 3, 1)
        nn.init.normal_(self.label.weight, std=8)

    def decode(self, features, rois, context):
        if self.frame == "roi":
            seen = roi_align(context.image, rois, self.output_size, 1, 2)
        else:
            seen = F.adaptive_avg_pool2d(context.image, self.output_size)[rois[:, 0].long()]
        return DecoderOutput(self.label(seen - 0.4))


@pytest.mark.parametrize("frame", ["roi", "image"])
def test_where_the_mirror_image_says_the_same_nothing_changes(frame, extractor, coco_set, tmp_path):
    torch.manual_seed(0)
    module = tiny_module(PictureDecoder(extractor, frame))
    results = []
    for on in (False, True):
        options = {"needs_images": True, "tta": TTA(hflip=on), "metric_size": (28, 28)}
        results.append(run_test(module, tiny_data(coco_set, extractor, module.decoder, **options), tmp_path))
    (plain, plain_seen), (averaged, seen) = results
    for (_, a), (_, b) in zip(plain_seen, seen, strict=True):
        torch.testing.assert_close(b.prediction.target, a.prediction.target, atol=1e-4, rtol=0)
    assert averaged == pytest.approx(plain, abs=2e-3)
    assert 0.1 < plain["test/pixel_accuracy"] < 0.95


def by_hand(decoder, extractor, batch):
    """[R, K, h, w]: mean of the probabilities of a batch and of its images turned round, one image at a time."""
    images, rois = batch.images.numpy(), batch.rois.numpy()
    means = []
    for n, image in enumerate(images):
        mine = rois[rois[:, 0] == n] * [0, 1, 1, 1, 1]
        views = []
        for picture, boxes in (
            (image, mine),
            (
                image[:, ::-1],
                np.stack([mine[:, 0], 64 - mine[:, 3], mine[:, 2], 64 - mine[:, 1], mine[:, 4]], 1),
            ),
        ):
            pixels = torch.from_numpy(picture[None].copy())
            context = Context(extractor.preprocess(pixels), batch.pixel_sizes[n : n + 1])
            with torch.no_grad():
                boxes = torch.from_numpy(boxes.astype(np.float32))
                logits = decoder(extractor(pixels), boxes, context).logits.double().numpy()
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            views.append(powers / powers.sum(axis=1, keepdims=True))
        means.append((views[0] + views[1][..., ::-1]) / 2)
    return np.concatenate(means)


@pytest.mark.parametrize("cached", [False, True], ids=["computed", "cached"])
@pytest.mark.parametrize("name", EVERY)
def test_probabilities_are_averaged_as_by_hand(name, cached, extractor, coco_set, tmp_path):
    decoder = make(name, extractor)
    size = None if decoder.frame == "roi" else (24, 18)
    options = {"needs_images": "detail" in name, "metric_size": size, "tta": TTA(hflip=True)}
    cache = MemoryCache(Half(), 1) if cached else None
    data = tiny_data(coco_set, extractor, decoder, cache=cache, **options)
    module = tiny_module(decoder)
    cold, _ = run_test(module, data, tmp_path)
    logged, seen = run_test(module, data, tmp_path)  # now the plain images are in the cache
    assert logged == cold
    hits = pixels = 0
    for batch, outputs in seen:
        expected = by_hand(decoder, extractor, batch)
        got = outputs.prediction.target.double().numpy()
        np.testing.assert_allclose(got, expected[:, 1], atol=2e-3 if cached else 1e-5)
        windows = decoder.extents(batch.rois)
        wanted = measured(torch.from_numpy(expected[:, 1]), batch, windows)
        ious = [(a.iou, b.iou) for a, b in zip(outputs.records, wanted, strict=True)]
        assert ious == [pytest.approx((b, b), abs=0.03) for _, b in ious]
        if decoder.frame == "roi":
            truth = batch.metric_targets.numpy()
            hits += ((expected.argmax(axis=1) == truth) & (truth != 255)).sum()
            pixels += (truth != 255).sum()
    if decoder.frame == "roi":
        assert logged["test/pixel_accuracy"] == pytest.approx(hits / pixels, abs=5e-3 if cached else 1e-6)


@pytest.mark.parametrize("name", EVERY)
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
    mean = average_views(
        logits, batch, module.decoder, lambda mirrored: logits[:, [1, 0, 2]], (14, 14)
    ).logits
    assert torch.isfinite(mean).all()
    torch.testing.assert_close(target_probability(mean), torch.full((len(batch.rois), 14, 14), 0.5))
