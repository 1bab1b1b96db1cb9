"""How many processes load does not change what is learnt."""

from __future__ import annotations

import kornia.augmentation as K
import pytest
import torch
from tiny_run import tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer

from roiseg.data.augment import Augment, GeometricAugment, PhotometricAugment

EVERYTHING = Augment(
    GeometricAugment(flip=0.5, scale=(0.8, 1.2)),
    PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1.0)]),
)


def trained(coco_set, onnx_file, folder, workers):
    """Weights and figures after two epochs of augmented images."""
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    decoder = tiny_decoder(extractor)
    module = tiny_module(decoder)
    data = tiny_data(coco_set, extractor, decoder, num_workers=workers, augment=EVERYTHING)
    trainer = tiny_trainer(folder)
    trainer.fit(module, datamodule=data)
    return {**module.state_dict(), **trainer.callback_metrics}


@pytest.mark.filterwarnings("ignore")
def test_no_one_and_two_loader_processes_train_the_same_weights_and_figures(coco_set, onnx_file, tmp_path):
    alone, *others = (trained(coco_set, onnx_file, tmp_path, workers) for workers in (0, 1, 2))
    assert any(name.startswith("decoder.") for name in alone) and "val/miou" in alone
    for other in others:
        assert other.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(other[name], value), name
