from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_run import (
    tiny_config,
    tiny_data,
    tiny_decoder,
    tiny_extractor,
    tiny_module,
    tiny_trainer,
)

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiTruth
from roiseg.inference.checkpoint import checkpoint_metadata
from roiseg.metrics.registry import LABELS

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
    with_empty = trainer.validate(module, loader, verbose=False)[0]
    only_full = trainer.validate(module, torch.utils.data.DataLoader([full], batch_size=None), verbose=False)[
        0
    ]
    assert with_empty["val/miou"] == only_full["val/miou"]
    assert with_empty["val/instance_iou"] == only_full["val/instance_iou"]


def test_validation_loss_is_the_mean_over_rois(setup, tmp_path):
    module, data = setup
    trainer = tiny_trainer(tmp_path)
    logged, again = (trainer.validate(module, datamodule=data, verbose=False)[0] for _ in range(2))
    assert logged == again  # metrics start anew
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


def test_a_run_logs_every_metric_ends_its_schedule_and_leaves_a_plain_checkpoint(
    coco_set, extractor, onnx_file, tmp_path
):
    decoder = tiny_decoder(extractor)
    description = checkpoint_metadata(tiny_config(onnx_file), extractor)
    trainer = tiny_trainer(tmp_path, max_epochs=2, precision="bf16-mixed")
    data = tiny_data(coco_set, extractor, decoder)
    trainer.fit(tiny_module(decoder, description), datamodule=data)
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "loss_ce", "loss_dice")}
    expected |= {f"val/{name}" for name in LABELS if name != "crowded_iou"}
    assert expected <= set(trainer.callback_metrics)
    assert all(0 <= v <= 1 for name, v in trainer.callback_metrics.items() if "loss" not in name)
    assert trainer.global_step == 2 * len(data.train_dataloader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.01)  # cosine's end
    trainer.save_checkpoint(tmp_path / "last.pth")
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert content["roiseg"] == description
    assert set(content["state_dict"]) == {f"decoder.{name}" for name in decoder.state_dict()}
    assert {"optimizer_states", "lr_schedulers", "epoch", "global_step"} <= set(content)
