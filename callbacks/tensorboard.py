"""TensorBoard: precision-recall curves, hyperparameters, and the decoder as text and as a graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from roiseg.common.files import as_utf8
from roiseg.config.private_api import write_summary
from roiseg.data.datamodule import RoiDataModule
from roiseg.decoders.base import Context, Decoder
from roiseg.diagnosis.decoder_costs import Cost, measure_cost
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.metrics.confusion import PrecisionRecallCurve
from roiseg.metrics.roi import MeasuredBatch
from roiseg.reporting.runs import flatten
from roiseg.training.module import RoiSegModule

Value = str | float | int | bool

# what TensorBoard's HPARAMS tab shows of a run
_GROUPS = (
    "experiment", "model", "loss", "data", "data/augment", "data/augment/paste", "tta", "decision",
    "extractor", "optimizer", "scheduler",
)  # fmt: skip
_KEYS = (
    "seed", "model.num_classes", "model.film", "model.detail", "data.batch_size", "data.folds.held_out",
    "optimizer.lr", "trainer.max_epochs", "trainer.precision",
)  # fmt: skip
_LEFT_OUT = ("paths", "callbacks", "logger", "ckpt_path")


def writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Return the writer of every TensorBoard logger; on other processes than the first, an empty list."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class PrCurve(L.Callback):
    """Writes the precision-recall curve of the target's pixels after validations, as `target`.

    It counts the pixels of the grid over each ROI that the validation IoU uses (`data.metric_size`), over all
    ROIs. A curve takes 24 bytes per threshold in the event file, 3 kB with 127.

    Args:
        thresholds: number of points of the curve.
    """

    def __init__(
        self, every_n_epochs: PositiveInt = 1, thresholds: Annotated[int, Field(ge=2)] = 127
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.curve = PrecisionRecallCurve(thresholds)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the counts of the last validation."""
        self.curve.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the pixels of a measured batch."""
        if isinstance(outputs, MeasuredBatch) and self._due(trainer):
            self.curve.update(outputs.prediction.grid_target, batch.metric_targets)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the curve over all processes on the first."""
        if not self._due(trainer):
            return
        curve = {name: values.cpu() for name, values in self.curve.compute().items()}
        for writer in writers(trainer):
            writer.add_pr_curve_raw(
                "val/pr_curve",
                **curve,
                global_step=trainer.current_epoch + 1,
                num_thresholds=self.curve.thresholds,
            )

    def _due(self, trainer: L.Trainer) -> bool:
        logged = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        return (
            logged and not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        )


class HyperParameters(L.Callback):
    """Adds the run to TensorBoard's HPARAMS tab: a row with its settings and the last value of every scalar.

    Settings are the choices of `_GROUPS`, the values of `_KEYS`, and all overrides on the command line but
    those below `_LEFT_OUT`. Columns are not declared: TensorBoard then shows those of all runs, whereas a
    declaration in one run's file would hide settings that only other runs have.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings."""
        assert isinstance(pl_module, RoiSegModule)
        config = flatten(pl_module.description.get("config", {}))
        settings = {**_choices(), **values_of(config, [*_KEYS, *_overridden()])}
        _, start, _ = hparams(settings, {})
        self._write(trainer, start)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the run as finished."""
        _, _, end = hparams({}, {})
        self._write(trainer, end)

    def _write(self, trainer: L.Trainer, summary: Any) -> None:
        for writer in writers(trainer):
            write_summary(writer, summary)


def _choices() -> dict[str, Value]:
    """Return the choices of configuration groups."""
    if not HydraConfig.initialized():  # composed in Python
        return {}
    choices = HydraConfig.get().runtime.choices
    return {group: choices[group] for group in _GROUPS if choices.get(group) is not None}


def _overridden() -> list[str]:
    """Return the overridden keys that are shown."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    return [key for key in keys if not any(key == out or key.startswith(f"{out}.") for out in _LEFT_OUT)]


def values_of(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Value]:
    """Return the values of `keys` that are set; anything but numbers and booleans as text."""
    values = {key: config[key] for key in dict.fromkeys(keys) if config.get(key) is not None}
    return {
        key: value if isinstance(value, (float, int, bool)) else as_utf8(str(value))
        for key, value in values.items()
    }


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
