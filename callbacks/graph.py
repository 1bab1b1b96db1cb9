"""The decoder's operators, as a graph in TensorBoard."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from callbacks.tensorboard import writers
from roiseg.data.datamodule import RoiDataModule
from roiseg.decoders.base import Context, Decoder
from roiseg.training.module import RoiSegModule


class ModelGraph(L.Callback):
    """Writes the decoder's graph when training starts, traced on empty features and two ROIs.

    Takes a few seconds and up to 0.4 MB of the event file, which is why it is not on by default.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trace and write, where someone looks at it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        if found := writers(trainer):
            decoder, training = pl_module.decoder, pl_module.decoder.training
            inputs = tuple(tensor.to(pl_module.device) for tensor in _inputs(decoder, data))
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # a trace holds for one number of ROIs: known, and enough
                # here, not in add_graph, which compares with a second trace and minds harmless differences
                traced = torch.jit.trace(_Traceable(decoder).eval(), inputs, check_trace=False)
                for writer in found:
                    writer.add_graph(traced, inputs)
            decoder.train(training)


class _Traceable(nn.Module):
    """A decoder that takes tensors only."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rois: Tensor, image: Tensor, pixel_size: Tensor, *features: Tensor) -> Tensor:
        """Logits of the ROIs; see `Decoder.forward`."""
        return self.decoder(list(features), rois, Context(image, pixel_size)).logits


def _inputs(decoder: Decoder, data: RoiDataModule) -> tuple[Tensor, ...]:
    height, width = decoder.image_size
    box = torch.tensor([0, 0.4, 0.3, 0.6, 0.7]) * torch.tensor([0, width, height, width, height])
    features = (torch.zeros(1, *shape) for shape in data.extractor.shapes)
    return box.expand(2, 5), torch.zeros(1, 3, height, width), torch.ones(1), *features
