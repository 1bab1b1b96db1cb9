"""Training and measuring, in either frame, with clicks, and with loss terms that start later."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.bilinear import paste
from helpers.decoders import target_probability
from helpers.image_decoder import TinyImageDecoder
from tiny_run import tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiTruth
from roiseg.geometry.rle import decode
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.metrics.roi import PixelMetrics
from roiseg.training.clicks import Clicks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return tiny_extractor(onnx_file)


@pytest.fixture
def setup(coco_set, extractor):
    """(module, data) with reproducible weights."""
    torch.manual_seed(0)
    decoder = tiny_decoder(extractor)
    return tiny_module(decoder), tiny_data(coco_set, extractor, decoder)


def without_rois(batch):
    """The same images and features, no ROI on any."""
    samples = [replace(sample, truth=RoiTruth()) for sample in batch.samples]
    return replace(batch, rois=batch.rois[:0], targets=batch.targets[:0], samples=samples)


def test_training_changes_decoder_weights_and_nothing_else(setup, tmp_path, extractor):
    module, data = setup
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert all(name.startswith("decoder.") for name in before)
    assert module.decoder.trunk[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert {id(p) for p in module.parameters()} == {id(p) for p in module.decoder.parameters()}
    images = next(iter(data.val_dataloader())).images
    features = extractor(images)[0].clone()
    tiny_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)
    assert torch.equal(extractor(images)[0], features)


def test_training_and_validation_take_batches_without_rois(setup, tmp_path):
    """Whole steps inside a trainer: loss, logging, metrics."""
    module, data = setup
    full = data.extract(next(iter(data.val_dataloader())))
    loader = torch.utils.data.DataLoader([without_rois(full), full], batch_size=None)
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader, loader)
    assert all(torch.isfinite(v) for v in trainer.callback_metrics.values())
    alone = torch.utils.data.DataLoader([full], batch_size=None)
    with_empty, only_full = (trainer.validate(module, of, verbose=False)[0] for of in (loader, alone))
    assert with_empty["val/miou"] == only_full["val/miou"]
    assert with_empty["val/instance_iou"] == only_full["val/instance_iou"]


def test_validation_loss_is_the_mean_over_rois(setup, tmp_path):
    module, data = setup
    trainer = tiny_trainer(tmp_path)
    logged, again = (trainer.validate(module, datamodule=data, verbose=False)[0] for _ in range(2))
    assert logged == again  # metrics are reset
    module.eval()
    total = count = 0.0
    with torch.no_grad():
        for batch in data.val_dataloader():
            batch = data.extract(batch)
            total += float(module.loss(module(batch), batch.targets)[0]) * len(batch.rois)
            count += len(batch.rois)
    assert logged["val/loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_schedule_over_an_endless_run_is_a_user_error(setup, tmp_path):
    module, data = setup
    trainer = tiny_trainer(tmp_path, max_epochs=-1)
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        trainer.fit(module, datamodule=data)


METRIC_SIZE = (24, 18)  # finer than the map: one sample a cell


def image_decoder(extractor, **options):
    torch.manual_seed(0)
    return TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), **options)


@pytest.fixture(scope="module")
def in_image_frame(coco_set, extractor, tmp_path_factory):
    """(module, data, trainer to measure with) of a decoder in the image frame, trained a little."""
    folder, decoder = tmp_path_factory.mktemp("image_frame"), image_decoder(extractor)
    data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE)
    module = tiny_module(decoder)
    tiny_trainer(folder, max_epochs=25, limit_val_batches=0).fit(module, datamodule=data)
    return module.eval(), data, tiny_trainer(folder)


def batches(data):
    return [data.extract(batch) for batch in data.val_dataloader()]


def test_instances_in_the_image_frame_are_measured_as_by_hand(in_image_frame):
    module, data, trainer = in_image_frame
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


def test_pixels_in_the_image_frame_are_counted_on_the_metric_grid_over_each_roi(in_image_frame):
    module, data, trainer = in_image_frame
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


class Listening(TinyImageDecoder):
    """Keeps what it was told."""

    def decode_map(self, features, rois, context):
        self.told = [*getattr(self, "told", []), (self.training, context)]
        return super().decode_map(features, rois, context)


@pytest.mark.parametrize("clicks", [None, Clicks(2, 1, share=1.0)], ids=["without", "with"])
@pytest.mark.parametrize("frame", ["roi", "image"])
def test_the_decoder_is_told_its_context(coco_set, extractor, tmp_path, frame, clicks):
    decoder = Listening(extractor.channels, extractor.strides, (64, 64), frame=frame)
    data = tiny_data(coco_set, extractor, decoder, metric_size=METRIC_SIZE, batch_size=5, val_batch_size=5)
    module = tiny_module(decoder)
    module.clicks = clicks
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


def test_a_term_counts_from_its_epoch_on_in_training_and_validation(coco_set, extractor, tmp_path):
    class Late(CrossEntropy):
        def forward(self, given):
            seen.append((module.current_epoch + 1, module.training))
            return super().forward(given)

    seen, decoder = [], tiny_decoder(extractor)
    late = {"term": Late(), "weight": 1.0, "from_epoch": 3}
    module = tiny_module(decoder, terms={"ce": {"term": CrossEntropy(), "weight": 1.0}, "late": late})
    trainer = tiny_trainer(tmp_path, max_epochs=4, num_sanity_val_steps=1)
    trainer.fit(module, datamodule=tiny_data(coco_set, extractor, decoder, batch_size=5, val_batch_size=5))
    assert seen == [(3, True), (3, False), (4, True), (4, False)]
    assert module.loss.epoch == 4
    assert {"train/loss_late", "val/loss_late"} <= set(trainer.callback_metrics)
