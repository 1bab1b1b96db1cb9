"""Knowledge distillation: a decoder learns what trained models predict, besides the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import IGNORE, NON_TARGET
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.decoders.base import Context, Decoder, decode_in_chunks
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import SPLIT, TrainedModel, check_same_file, load_model


class Distillation:
    """Measures how far a decoder is from the mean probabilities of trained models, its teachers.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015: here with temperature 1, and for each
    pixel. The teachers see what the decoder sees, augmented images and jittered ROIs included, so that one
    decoder learns what an ensemble predicts.

    Args:
        teachers: checkpoints, see `load_model`. A teacher with three classes may train a decoder with two.
        weight: of the divergence, relative to the loss.

    Raises:
        UserError: no teacher is given, or one cannot be loaded.
    """

    def __init__(
        self, teachers: Annotated[Sequence[str], Field(min_length=1)], weight: PositiveFloat = 1.0
    ) -> None:
        self.models = [load_model(path) for path in teachers]
        self.weight = weight

    def check(self, decoder: Decoder, extractor: OnnxExtractor, data: Mapping[str, Any]) -> None:
        """Check that the teachers fit a run.

        Args:
            data: the run's resolved configuration of `data`.

        Raises:
            UserError: a teacher reads other features, has fewer classes, or learned from other images, which
                may be those that this run is measured on; or the decoder predicts no grid over the ROI.
        """
        if decoder.frame != "roi":
            raise UserError(
                "distillation compares grids over the ROI: set model.frame=roi or take another model"
            )
        if extractor.project is not None:
            raise UserError("distillation reads all channels of the tensors: set extractor.project=null")
        for model in self.models:
            self._check(model, decoder, extractor, data)

    def _check(
        self, model: TrainedModel, decoder: Decoder, extractor: OnnxExtractor, data: Mapping[str, Any]
    ) -> None:
        name = f"distillation.teachers: {model.path}"
        check_same_file(extractor, model.extractor_sha256, model.path)
        if list(model.layers) != list(extractor.layers):
            raise UserError(
                f"{name} reads extractor.layers=[{','.join(model.layers)}], this run reads "
                f"[{','.join(extractor.layers)}]: use the same tensors"
            )
        if model.decoder.projection is not None:
            raise UserError(
                f"{name} was trained with extractor.project: use a teacher that reads all channels"
            )
        if model.image_size != decoder.image_size:
            raise UserError(
                f"{name} was trained on inputs of {list(model.image_size)}, this run has "
                f"{list(decoder.image_size)}: set extractor.preprocess.image_size"
            )
        if model.decoder.num_classes < decoder.num_classes:
            raise UserError(f"{name} has no non-target class: set model.num_classes=2 or use another teacher")
        if missing := set(model.decoder.context_inputs) - {*decoder.context_inputs, "pixel_size"}:
            raise UserError(
                f"{name} reads the {missing.pop()}, which this model does not: set model.detail, too"
            )
        taught = model.config.get("data") or {}
        for key in SPLIT:
            if taught.get(key) != data.get(key):
                raise UserError(
                    f"{name} was trained with data.{key}={_short(taught.get(key))}, this run has "
                    f"{_short(data.get(key))}: it may know the images this run is measured on; use a teacher "
                    "of the same split"
                )

    def __call__(
        self, logits: Tensor, decoder: Decoder, batch: RoiBatch, context: Context, max_rois: int
    ) -> Tensor:
        """Return the mean Kullback-Leibler divergence from the teachers, a scalar; 0 where no pixel counts.

        Args:
            logits: [R, K, h, w] of `decoder` for the ROIs of `batch`, whose features are filled in.
            max_rois: how many ROIs a teacher decodes at a time.
        """
        with torch.no_grad():
            each = [
                self._probabilities(model.decoder, decoder, batch, context, max_rois) for model in self.models
            ]
            wanted = torch.stack(each).mean(dim=0)
        divergence = F.kl_div(logits.float().log_softmax(dim=1), wanted, reduction="none").sum(dim=1)
        counted = batch.targets != IGNORE
        return (divergence * counted).sum() / counted.sum().clamp(min=1)

    @staticmethod
    def _probabilities(
        teacher: Decoder, decoder: Decoder, batch: RoiBatch, context: Context, max_rois: int
    ) -> Tensor:
        """Return a teacher's probabilities [R, K, h, w] on the decoder's grid and classes."""
        teacher = teacher.to(batch.rois.device)
        output = decode_in_chunks(teacher, batch.features, batch.rois, context, max_rois)
        logits = teacher.roi_logits(output.logits.float(), batch.rois, decoder.output_size)
        probabilities = logits.softmax(dim=1)
        if teacher.num_classes == decoder.num_classes:
            return probabilities
        known, rest = probabilities[:, :NON_TARGET].clone(), probabilities[:, NON_TARGET:]
        known[:, 0] += rest.sum(dim=1)
        return known


def _short(value: Any) -> Any:
    """Return a value of the configuration as it is given on a command line."""
    return f"held out {value['held_out']}" if isinstance(value, Mapping) and "held_out" in value else value
