"""Decoders of every kind on the tiny set, and what the test of a run says of each batch."""

from __future__ import annotations

import lightning as L
import torch
from helpers.image_decoder import TinyImageDecoder
from tiny_run import LAYER, tiny_decoder, tiny_trainer

from roiseg.data.batch import RoiPrediction
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.metrics.instance import measure_instances, paste_masks


def topleft_extractor(onnx_file):
    """The tiny detector; pads on the right and below only."""
    return OnnxExtractor(
        str(onnx_file), [LAYER], Preprocess([64, 64], align="topleft", color="bgr"), threads=1
    )


class Outputs(L.Callback):
    """What the module returned of each batch of the test, and the batch."""

    def __init__(self):
        self.seen = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen.append((batch, outputs))


def run_test(module, data, folder):
    """(logged metrics, (batch, outputs) a batch)."""
    outputs = Outputs()
    trainer = tiny_trainer(folder, [outputs])
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    module.eval()
    return logged, outputs.seen


def measured(target, batch, extents=None, **options):
    """Records of predictions [R, h, w] stretched over `extents`, by default the ROIs."""
    extents = batch.rois[:, 1:] if extents is None else extents
    prediction = RoiPrediction(target, None, extents, target, target.long())
    return measure_instances(paste_masks(prediction, batch), **options)


def make(name, extractor):
    torch.manual_seed(0)
    decoders = {
        "roi": lambda: tiny_decoder(extractor),
        "detail and film": lambda: tiny_decoder(extractor, detail=4, film=1.0),
        "image": lambda: TinyImageDecoder(extractor.channels, extractor.strides, (64, 64)),
        "image, detail": lambda: TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), detail=4),
    }
    return decoders[name]()


EVERY = ["roi", "detail and film", "image", "image, detail"]
