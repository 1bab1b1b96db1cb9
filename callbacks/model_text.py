"""What is being trained, as a text in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch

from callbacks.tensorboard import writers
from roiseg.data.datamodule import RoiDataModule
from roiseg.decoders.base import Decoder
from roiseg.decoders.cost import Cost, measure_cost
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.training.module import RoiSegModule


class ModelText(L.Callback):
    """Writes the text `model` when training starts: features read, parts with their parameters, cost.

    The cost is measured on the spot, in a second or less on most decoders.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and write, where someone reads it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        if found := writers(trainer):
            text = describe_model(pl_module.decoder, data.extractor)
            for writer in found:
                writer.add_text("model", text)


def describe_model(decoder: Decoder, extractor: OnnxExtractor) -> str:
    """A decoder, the features it reads and its cost, as Markdown; the decoder is left in its mode."""
    training = decoder.training
    with torch.random.fork_rng(devices=[]):  # measuring must not change the training that follows
        cost = measure_cost(decoder, extractor.shapes)
    decoder.train(training)
    height, width = decoder.output_size
    parts = [f"# {type(decoder).__name__}"]
    parts.append(
        f"{decoder.num_classes} classes on a grid of {height} x {width} over "
        f"{'each ROI' if decoder.frame == 'roi' else 'the whole input'}"
    )
    parts += [_table(["feature", "channels", "height x width", "stride"], _features(extractor))]
    parts += [_table(["part", "what", "parameters"], _parts(decoder))]
    parts += [_table(["cost", "", "8 ROIs on one image"], _costs(cost))]
    return "\n\n".join(parts)


def _features(extractor: OnnxExtractor) -> Iterator[Sequence[str]]:
    for layer, (channels, height, width), stride in zip(
        extractor.layers, extractor.shapes, extractor.strides, strict=True
    ):
        yield f"`{layer}`", str(channels), f"{height} x {width}", str(stride)


def _parts(decoder: Decoder) -> Iterator[Sequence[str]]:
    for name, part in decoder.named_children():
        yield f"`{name}`", type(part).__name__, f"{sum(p.numel() for p in part.parameters()):,}"
    if own := sum(p.numel() for p in decoder.parameters(recurse=False)):
        yield "", "its own", f"{own:,}"
    yield "all", "", f"{sum(p.numel() for p in decoder.parameters()):,}"


def _costs(cost: Cost) -> Iterator[Sequence[str]]:
    yield "an image", "multiply-accumulates", f"{cost.image_macs / 1e9:.3f} G"
    yield "a ROI more", "multiply-accumulates", f"{cost.roi_macs / 1e9:.3f} G"
    yield "a ROI", "time here", f"{cost.roi_ms:.2f} ms"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
