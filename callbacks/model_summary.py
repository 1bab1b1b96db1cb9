"""The decoder in TensorBoard: its parts and cost as text, its operators as a graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from roiseg.callbacks.tensorboard import writers
from roiseg.data.datamodule import RoiDataModule
from roiseg.decoders.base import Context, Decoder
from roiseg.decoders.cost import Cost, measure_cost
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.training.module import RoiSegModule


class ModelText(L.Callback):
    """Writes the text `model` when training starts: input features, parts with their parameters, cost.

    Measuring the cost takes a second or less for most decoders.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and write if there is a TensorBoard logger."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        if summary_writers := writers(trainer):
            text = describe_model(pl_module.decoder, data.extractor)
            for writer in summary_writers:
                writer.add_text("model", text)


def describe_model(decoder: Decoder, extractor: OnnxExtractor) -> str:
    """Describe a decoder, its input features and its cost as Markdown; its mode is unchanged."""
    training = decoder.training
    with torch.random.fork_rng(devices=[]):  # training must not depend on the measurement
        cost = measure_cost(decoder, extractor.shapes)
    decoder.train(training)
    height, width = decoder.output_size
    parts = [f"# {type(decoder).__name__}"]
    parts.append(
        f"{decoder.num_classes} classes on a grid of {height} x {width} over "
        f"{'each ROI' if decoder.frame == 'roi' else 'the whole input'}"
    )
    parts += [_table(["feature", "channels", "height x width", "stride"], _features(extractor))]
    parts += [_table(["part", "type", "parameters"], _parts(decoder))]
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
        yield "", "own parameters", f"{own:,}"
    yield "all", "", f"{sum(p.numel() for p in decoder.parameters()):,}"


def _costs(cost: Cost) -> Iterator[Sequence[str]]:
    yield "per image", "multiply-accumulates", f"{cost.image_macs / 1e9:.3f} G"
    yield "per ROI", "multiply-accumulates", f"{cost.roi_macs / 1e9:.3f} G"
    yield "per ROI", "time on this machine", f"{cost.roi_ms:.2f} ms"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class ModelGraph(L.Callback):
    """Writes the decoder's graph when training starts, traced on empty features and two ROIs.

    Takes a few seconds and up to 0.4 MB of the event file, so it is off by default.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trace and write if there is a TensorBoard logger."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        if summary_writers := writers(trainer):
            decoder, training = pl_module.decoder, pl_module.decoder.training
            inputs = tuple(tensor.to(pl_module.device) for tensor in _inputs(decoder, data))
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # a trace fixes the number of ROIs
                # add_graph would compare with a second trace and fail on harmless differences
                traced = torch.jit.trace(_Traceable(decoder).eval(), inputs, check_trace=False)
                for writer in summary_writers:
                    writer.add_graph(traced, inputs)
            decoder.train(training)


class _Traceable(nn.Module):
    """A decoder with tensors as its only arguments."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rois: Tensor, image: Tensor, pixel_size: Tensor, *features: Tensor) -> Tensor:
        """Return the logits of the ROIs; see `Decoder.forward`."""
        return self.decoder(list(features), rois, Context(image, pixel_size)).logits


def _inputs(decoder: Decoder, data: RoiDataModule) -> tuple[Tensor, ...]:
    height, width = decoder.image_size
    box = torch.tensor([0, 0.4, 0.3, 0.6, 0.7]) * torch.tensor([0, width, height, width, height])
    features = (torch.zeros(1, *shape) for shape in data.extractor.shapes)
    return box.expand(2, 5), torch.zeros(1, 3, height, width), torch.ones(1), *features
