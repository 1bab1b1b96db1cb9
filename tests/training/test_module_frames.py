"""Training and measuring decoders in either frame, with clicks, and with loss terms that start later."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from helpers.bilinear import paste
from helpers.image_decoder import TinyImageDecoder
from tiny_run import tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer
from torch.nn import functional as F

from roiseg.decoders.base import target_probability
from roiseg.geometry.rle import decode
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.metrics.roi import PixelMetrics
from roiseg.training.clicks import Clicks
from roiseg.training.module import RoiSegModule

pytestmark = pytest.mark.filterwarnings("ignore")

METRIC_SIZE = (24, 18)  # finer than the map: one sample a cell


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return tiny_extractor(onnx_file)


def image_decoder(extractor, **options):
    torch.manual_seed(0)
    return TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), **options)


@pytest.fixture(scope="module")
def setup(coco_set, extractor, tmp_path_factory):
    """(module, data, trainer to measure with) of a decoder in the image frame, trained a little."""
    folder, decoder = tmp_path_factory.mktemp("image_frame"), image_decoder(extractor)
    data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE)
    module = tiny_module(decoder)
    tiny_trainer(folder, max_epochs=25, limit_val_batches=0).fit(module, datamodule=data)
    return module.eval(), data, tiny_trainer(folder)


def batches(data):
    return [data.extract(batch) for batch in data.val_dataloader()]


def test_instances_in_the_image_frame_are_measured_as_by_hand(setup):
    module, data, trainer = setup
    logged = trainer.validate(module, datamodule=data, verbose=False)[0]
    ious = []
    for batch in batches(data):
        with torch.no_grad():
            maps = target_probability(module(batch).logits).double().numpy()
        truths = [(sample, truth) for sample in batch.samples for truth in sample.truth.rles]
        rois = batch.rois[:, 1:].double().numpy()
        for probability, roi, (sample, truth) in zip(maps, rois, truths, strict=True):
            pasted = paste(probability, (0, 0, 64, 64), sample.original_size, roi, sample.transform)
            predicted, true = pasted >= 0.5, decode(truth) > 0
            union = (predicted | true).sum()
            ious.append((predicted & true).sum() / union)
    assert 0.3 < np.mean(ious) < 1  # neither empty nor perfect
    assert logged["val/instance_iou"] == pytest.approx(np.mean(ious), abs=2e-3)
    assert logged["val/instance_iou75"] == pytest.approx(np.mean([iou >= 0.75 for iou in ious]))


def test_pixels_in_the_image_frame_are_counted_on_the_metric_grid_over_each_roi(setup):
    module, data, trainer = setup
    logged = trainer.validate(module, datamodule=data, verbose=False)[0]
    metrics = PixelMetrics(3)
    for batch in batches(data):
        assert batch.metric_targets.shape[1:] == METRIC_SIZE
        with torch.no_grad():
            logits = module(batch).logits
        for n, (_, x1, y1, x2, y2) in enumerate(batch.rois.tolist()):
            x = x1 + (torch.arange(METRIC_SIZE[1]) + 0.5) * (x2 - x1) / METRIC_SIZE[1]
            y = y1 + (torch.arange(METRIC_SIZE[0]) + 0.5) * (y2 - y1) / METRIC_SIZE[0]
            grid = torch.stack(torch.meshgrid(x / 32 - 1, y / 32 - 1, indexing="xy"), dim=-1)[None]
            read = F.grid_sample(logits[n : n + 1], grid, padding_mode="border", align_corners=False)
            metrics.update(read.argmax(1), batch.metric_targets[n : n + 1].long())
    expected = {name: float(value) for name, value in metrics.scalars().items()}
    assert {name: logged[f"val/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_perfect_map_over_the_input_gives_perfect_scores(coco_set, extractor, tmp_path):
    """Logits that are the truth itself: what is lost is the resolution of the map alone."""

    class Oracle(TinyImageDecoder):
        def decode_map(self, features, rois, context):
            output = super().decode_map(features, rois, context)
            truth = F.one_hot(self.truth.long().clamp(max=2), 3).permute(0, 3, 1, 2).float()
            return type(output)(20 * (truth - 0.5) + 0 * output.logits)

    torch.manual_seed(0)
    decoder = Oracle(extractor.channels, extractor.strides, (64, 64), map_stride=1)
    data = tiny_data(coco_set, extractor, decoder, metric_size=(56, 56), val_batch_size=5)
    module = tiny_module(decoder)
    decoder.truth = next(iter(data.val_dataloader())).targets
    logged = tiny_trainer(tmp_path).validate(module, datamodule=data, verbose=False)[0]
    assert logged["val/loss"] < 1e-3
    assert logged["val/target_iou"] > 0.93
    assert logged["val/instance_iou"] > 0.93


# --- what the decoder is told ---------------------------------------------------------------------


class Listening(TinyImageDecoder):
    """Keeps what it was told."""

    def decode_map(self, features, rois, context):
        self.told = [*getattr(self, "told", []), (self.training, context)]
        return super().decode_map(features, rois, context)


@pytest.mark.parametrize("clicks", [None, Clicks(2, 1, share=1.0)], ids=["without", "with"])
@pytest.mark.parametrize("frame", ["roi", "image"])
def test_the_decoder_is_told_image_pixel_size_and_in_training_clicks(
    coco_set, extractor, tmp_path, frame, clicks
):
    decoder = Listening(extractor.channels, extractor.strides, (64, 64), frame=frame)
    data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE, batch_size=5, val_batch_size=5)
    terms = {"ce": {"term": CrossEntropy(), "weight": 1.0}}
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01)
    module = RoiSegModule(decoder, CompositeLoss(terms), optimizer, None, 0, {}, clicks)
    tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    (trained, training), (measured, evaluation) = decoder.told
    assert (trained, measured) == (True, False)
    assert evaluation.points is None
    batch = batches(data)[0]
    assert torch.equal(evaluation.image, batch.inputs)
    assert torch.equal(evaluation.pixel_size, batch.pixel_sizes)
    assert training.image.shape == (5, 3, 64, 64)
    if clicks is None:
        assert training.points is None
    else:
        assert training.points.shape == (20, 3, 3)  # 5 images, 4 ROIs each
        assert (training.points[:, :2, 2] == 1).any()
        assert (training.points[..., :2] >= 0).all() and (training.points[..., :2] <= 64).all()


def test_clicks_lie_on_the_target_of_their_roi_in_either_frame(coco_set, extractor):
    for frame in ("roi", "image"):
        decoder = image_decoder(extractor, frame=frame)
        data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE, batch_size=5)
        module = tiny_module(decoder)
        module.clicks = Clicks(5, 0, share=1.0)
        batch = data.extract(next(iter(data.train_dataloader())))
        points = module.train()._context(batch).points
        windows, (h, w) = decoder.extents(batch.rois), decoder.output_size
        for own, (x1, y1, x2, y2), target in zip(points, windows.tolist(), batch.targets, strict=True):
            possible = own[own[:, 2] == 1]
            rows = ((possible[:, 1] - y1) / (y2 - y1) * h).long()
            columns = ((possible[:, 0] - x1) / (x2 - x1) * w).long()
            assert (target[rows, columns] == 1).all()
            assert len(possible) in (0, 5)
        assert (points[..., 2] == 1).float().mean() > 0.9
        assert module.eval()._context(batch).points is None


@pytest.mark.parametrize(("frame", "precision"), [("roi", "bf16-mixed"), ("image", "32-true")])
def test_film_and_detail_train_in_either_frame(coco_set, extractor, tmp_path, frame, precision):
    decoder = image_decoder(extractor, frame=frame, film=1.0, detail=4)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE)
    trainer = tiny_trainer(tmp_path, max_epochs=1, precision=precision)
    trainer.fit(tiny_module(decoder), datamodule=data)
    assert all(not torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())


# --- loss terms that start later ------------------------------------------------------------------


def noting_module(decoder, seen, from_epoch):
    """A module whose term `late` starts at `from_epoch`; `seen` gets (epoch, training) of each of its calls."""

    class Late(CrossEntropy):
        def forward(self, given):
            seen.append((module.current_epoch + 1, module.training))
            return super().forward(given)

    terms = {
        "ce": {"term": CrossEntropy(), "weight": 1.0},
        "late": {"term": Late(), "weight": 1.0, "from_epoch": from_epoch},
    }
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01)
    module = RoiSegModule(decoder, CompositeLoss(terms), optimizer, None, 0, {})
    return module


def test_a_term_counts_from_its_epoch_on_in_training_and_validation(coco_set, extractor, tmp_path):
    seen, decoder = [], tiny_decoder(extractor)
    module = noting_module(decoder, seen, from_epoch=3)
    trainer = tiny_trainer(tmp_path, max_epochs=4, num_sanity_val_steps=1)
    trainer.fit(module, datamodule=tiny_data(coco_set, extractor, decoder, batch_size=5, val_batch_size=5))
    assert seen == [(3, True), (3, False), (4, True), (4, False)]
    assert module.loss.epoch == 4
    assert {"train/loss_late", "val/loss_late"} <= set(trainer.callback_metrics)


def test_a_resumed_run_ends_as_an_uninterrupted_one_with_terms_from_the_same_epoch(
    coco_set, extractor, tmp_path
):
    def run(epochs, ckpt_path=None):
        torch.manual_seed(0)
        seen, decoder = [], tiny_decoder(extractor)
        module = noting_module(decoder, seen, from_epoch=3)
        torch.rand(17 if ckpt_path else 0)  # the epoch fixes the randomness, whatever ran before
        trainer = tiny_trainer(tmp_path, max_epochs=epochs)
        data = tiny_data(coco_set, extractor, decoder, batch_size=5, val_batch_size=5)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return trainer, module, seen

    _, whole, seen = run(4)
    trainer, _, _ = run(2)
    trainer.save_checkpoint(tmp_path / "half.pth")
    _, resumed, after = run(4, tmp_path / "half.pth")
    assert after == [(epoch, training) for epoch, training in seen if epoch > 2]
    assert resumed.loss.epoch == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
