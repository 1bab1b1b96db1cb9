"""A whole run in miniature on the tiny COCO set and the tiny detector: what training tests share."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import lightning as L
import torch
from helpers.image_decoder import TinyImageDecoder

from roiseg.data.batch import RoiPrediction
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.samplers import RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.checkpoint import TrainedModel, checkpoint_metadata
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice
from roiseg.metrics.instance import measure_instances, paste_masks
from roiseg.training.module import RoiSegModule
from roiseg.training.schedules import cosine

LAYER = "/model.3/Concat_output_0"  # [20, 16, 16], stride 4
SECOND_LAYER = "/model.6/Concat_output_0"  # [32, 8, 8], stride 8

MODEL = {
    "num_classes": 3, "roi_size": [7, 7], "output_size": [14, 14], "mid_channels": 8, "min_channels": 8,
    "depth": 1, "sampling_ratio": 2,
}  # fmt: skip


def tiny_config(onnx_file, layers=(LAYER,), **model):
    """A configuration as a checkpoint carries it; `model` overrides options of the decoder."""
    return {
        "seed": 0,
        "data": {"_target_": "roiseg.data.datamodule.RoiDataModule", "batch_size": 2},
        "extractor": {
            "_target_": "roiseg.extractor.onnx_extractor.OnnxExtractor",
            "onnx_path": str(onnx_file),
            "layers": list(layers),
            "threads": 1,
            "source": None,
            "preprocess": {
                "_target_": "roiseg.extractor.preprocess.Preprocess",
                "image_size": [64, 64],
                "color": "bgr",
                "divisor": 255.0,
            },
        },
        "model": {"_target_": "roiseg.decoders.roialign.RoiAlignDecoder", **MODEL, **model},
        "loss": {"class_weights": None, "terms": {"ce": {"weight": 1.0}}},
        "optimizer": {"lr": 0.01},
        "scheduler": {"warmup": 0.1},
        "trainer": {"max_epochs": 2, "precision": "32-true", "default_root_dir": "here"},
        "callbacks": {"checkpoint": {}, "history": {}},
        "paths": {"output_dir": "outputs/tiny"},
    }


def tiny_extractor(onnx_file, align="center"):
    """The extractor that `tiny_config` describes."""
    return OnnxExtractor(str(onnx_file), [LAYER], Preprocess([64, 64], align, color="bgr"), threads=1)


def tiny_decoder(extractor, **model):
    """The decoder that `tiny_config` describes."""
    return RoiAlignDecoder(
        extractor.channels, extractor.strides, extractor.preprocess.image_size, **{**MODEL, **model}
    )


def trained_model(decoder, extractor, config=None, epoch=1):
    """The decoder as `load_model` gives it back."""
    height, width = extractor.preprocess.image_size
    return TrainedModel(
        Path(f"checkpoint_epoch_{epoch:04d}_{height}x{width}_5000.pth"), decoder.eval(),
        config or tiny_config(extractor.onnx_path, extractor.layers), extractor.layers, extractor.shapes,
        (height, width), extractor.digest, epoch,
    )  # fmt: skip


def with_random_weights(decoder, scale=0.1, seed=0):
    """Add noise to all weights, so that norms and biases are not fresh and predictions not 1/3."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return decoder


def tiny_data(coco_set, extractor, decoder, **options):
    """The tiny COCO set as a data module, without loader processes."""
    spec = TargetSpec(
        decoder.frame, decoder.output_size, decoder.num_classes, extractor.preprocess.image_size
    )
    files = [str(coco_set.json), str(coco_set.images)] * 2
    options = {"batch_size": 2, "val_batch_size": 2, "num_workers": 0} | options
    return RoiDataModule(*files, extractor, spec, RoiSampler(), **options)


def tiny_module(decoder, description=None, seed=0, terms=None):
    """The LightningModule with cross-entropy and Dice, AdamW and a cosine."""
    terms = terms or {"ce": {"term": CrossEntropy(), "weight": 1.0}, "dice": {"term": Dice(), "weight": 1.0}}
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01)
    return RoiSegModule(decoder, CompositeLoss(terms), optimizer, cosine, seed, description or {})


def tiny_trainer(folder, callbacks=(), **options):
    """A quiet trainer on the CPU."""
    settings = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False,
        "enable_checkpointing": bool(callbacks), "default_root_dir": str(folder),
    }  # fmt: skip
    return L.Trainer(**{**settings, **options}, callbacks=list(callbacks))


@contextlib.contextmanager
def one_thread():
    """Let torch compute on one core: for tiny tensors on busy machines several are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(coco_set, onnx_file, folder, callbacks=(), seed=0, decision=None, **options):
    """Train for real; returns (trainer, module, data, extractor)."""
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(seed)
    decoder = tiny_decoder(extractor)
    data = tiny_data(coco_set, extractor, decoder)
    module = tiny_module(decoder, checkpoint_metadata(tiny_config(onnx_file), extractor), seed)
    module.decision = decision or module.decision
    trainer = tiny_trainer(folder, callbacks, **options)
    with one_thread():
        trainer.fit(module, datamodule=data)
    return trainer, module, data, extractor


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
    """One of the decoders EVERY."""
    torch.manual_seed(0)
    decoders = {
        "roi": lambda: tiny_decoder(extractor),
        "detail and film": lambda: tiny_decoder(extractor, detail=4, film=1.0),
        "image": lambda: TinyImageDecoder(extractor.channels, extractor.strides, (64, 64)),
        "image, detail": lambda: TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), detail=4),
    }
    return decoders[name]()


EVERY = ["roi", "detail and film", "image", "image, detail"]
