"""Items of the tiny set."""

from __future__ import annotations

import kornia.augmentation as K
import numpy as np
import torch
from tiny_run import one_thread, tiny_decoder, tiny_module, tiny_trainer

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, GeometricAugment, PhotometricAugment, Views
from roiseg.data.dataset import RoiDataset
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox

SIZE = (64, 64)
SPEC = TargetSpec("roi", (14, 14), 3, SIZE)
LETTERBOX = Letterbox(SIZE)
AUGMENT = Augment(
    GeometricAugment(flip=0.5, scale=(0.8, 1.6), aspect=0.1),
    PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.8), K.RandomGaussianNoise(std=0.05, p=0.5)]),
)

# measured on a grid of its own
METRIC = TargetSpec("roi", (14, 14), 3, SIZE, metric_size=(20, 12))
IMAGE_FRAME = TargetSpec("image", (16, 16), 3, SIZE, metric_size=(20, 12))


def make(files, spec=SPEC, letterbox=LETTERBOX, augment=None, **options):
    """The items of `helpers.tiny_coco`, or of a set like it."""
    views = Views(letterbox, augment or Augment())
    return RoiDataset(load_annotations(files.json), files.images, views, spec, **options)


def assert_same_item(a, b, image=True):
    assert (a.file_name, a.transform, a.original_size) == (b.file_name, b.transform, b.original_size)
    for name in ("rois", "targets", *(("image",) if image else ())):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.truth.rles == b.truth.rles


def epoch(loader, number=0):
    """The batches of an epoch."""
    loader.sampler.set_epoch(number)
    return list(loader)


def count_extracted(extractor):
    """Return a list that grows by the number of images whenever the extractor runs."""
    counts, run = [], extractor.run
    extractor.run = lambda tensor: counts.append(len(tensor)) or run(tensor)
    return counts


def trained_weights(data, folder):
    """Weights and figures after two epochs of training."""
    torch.manual_seed(0)
    module, trainer = tiny_module(tiny_decoder(data.extractor)), tiny_trainer(folder)
    with one_thread():
        trainer.fit(module, datamodule=data)
    return {**module.state_dict(), **trainer.callback_metrics}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
