"""The LightningModule: any decoder, any loss, the same metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.decoders.base import Context, Decoder, DecoderOutput, target_probability
from roiseg.decoders.parts import decode_in_parts
from roiseg.losses.composite import CompositeLoss
from roiseg.training.clicks import Clicks
from roiseg.training.instances import measure_instances
from roiseg.training.looks import average
from roiseg.training.loss_means import LossMeans
from roiseg.training.metrics import InstanceMetrics, PixelMetrics


class RoiSegModule(L.LightningModule):
    """Trains a decoder on features that arrive ready in the batch.

    Args:
        decoder: what learns.
        loss: what it minimises.
        optimizer: parameters -> optimiser.
        scheduler: (optimiser, total steps) -> schedule stepped every optimiser step; None keeps the rate.
        clicks: draws point prompts for training batches; None gives none.
        max_rois: how many ROIs are decoded at a time. More come in parts, at no more memory than this many
            and with the same gradients.
        seed: training randomness (dropout and the like) depends on it and the epoch only, so that a
            resumed run equals an uninterrupted one.
        description: plain numbers, texts, lists and dicts saved in every checkpoint, from which
            inference builds extractor and decoder again.
    """

    def __init__(
        self,
        decoder: Decoder,
        loss: CompositeLoss,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None,
        seed: int,
        description: dict[str, Any],
        clicks: Clicks | None = None,
        max_rois: int = 128,
    ) -> None:
        super().__init__()
        if not isinstance(max_rois, int) or max_rois < 1:
            raise UserError(f"max_rois must be a whole number of 1 or more, got {max_rois}")
        self.decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.description = description
        self.clicks = clicks
        self.max_rois = max_rois
        self.pixel_metrics = PixelMetrics(decoder.num_classes)
        self.instance_metrics = InstanceMetrics()
        self.loss_means = LossMeans(["loss", *(f"loss_{name}" for name in loss.terms)])

    def forward(self, batch: RoiBatch) -> DecoderOutput:
        """Decode a batch whose features are filled in."""
        return decode_in_parts(self.decoder, batch.features, batch.rois, self._context(batch), self.max_rois)

    def on_train_epoch_start(self) -> None:
        """Make the epoch's randomness independent of what ran before it; switch on terms that start now."""
        self.loss.epoch = self.current_epoch + 1
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch * 1009 + self.global_rank)

    def training_step(self, batch: RoiBatch, batch_idx: int) -> dict[str, Any]:
        """Return the `loss` of one batch and, for callbacks, the `terms` it is made of, by name."""
        losses = self._losses(self(batch), batch)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=max(1, len(batch.rois)),
            sync_dist=True,
        )
        terms = {
            name.removeprefix("loss_"): value.detach() for name, value in losses.items() if name != "loss"
        }
        return {"loss": losses["loss"], "terms": terms}

    def validation_step(self, batch: RoiBatch, batch_idx: int) -> dict[str, Any] | None:
        """Measure one batch; returns what `test_step` does."""
        return self._measure(batch, self.trainer.val_dataloaders)

    def test_step(self, batch: RoiBatch, batch_idx: int) -> dict[str, Any] | None:
        """Measure one batch; where it has mirror images or close-ups, the average of all (losses aside).

        Returns:
            For callbacks: `records`, one `InstanceRecord` a ROI, `probabilities` [R, h, w] of the target,
            `windows` [R, 4], the boxes in input pixels they are stretched over, and `on_rois` [R, h, w], the
            same probabilities on the grid over each ROI that pixels are counted on; None on a process that
            has nothing to evaluate.
        """
        return self._measure(batch, self.trainer.test_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics("test")

    def target_probabilities(self, batch: RoiBatch) -> Tensor:
        """[R, h, w] probability of the target, in the decoder's frame."""
        with torch.no_grad():
            return target_probability(self(batch).logits)

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule for the whole run."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise UserError(
                "a scheduler must know how long the run is: set trainer.max_epochs, or scheduler=null"
            )
        total_steps = int(total_steps)
        schedule = {"scheduler": self.make_scheduler(optimizer, total_steps=total_steps), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint carry what inference needs."""
        checkpoint["roiseg"] = self.description

    def _context(self, batch: RoiBatch) -> Context:
        points = None
        if self.clicks is not None and self.training:
            points = self.clicks(batch.targets, self.decoder.windows(batch.rois))
        return Context(image=batch.inputs, pixel_size=batch.pixel_sizes, points=points)

    def _losses(self, output: DecoderOutput, batch: RoiBatch) -> dict[str, Tensor]:
        total, values = self.loss(output, batch.targets)
        return {"loss": total, **{f"loss_{name}": value for name, value in values.items()}}

    def _measure(self, batch: RoiBatch, loader: Any) -> dict[str, Any] | None:
        if getattr(loader.sampler, "idle", False):
            return None
        output = self(batch)
        self.loss_means.update(self._losses(output, batch), len(batch.rois))
        size = (batch.measured.shape[1], batch.measured.shape[2])
        seen = average(output.logits, batch, self.decoder, lambda more: self(more).logits, size)
        self.pixel_metrics.update(seen.on_rois.argmax(dim=1), batch.measured.long())
        probabilities = target_probability(seen.logits)
        records = measure_instances(probabilities, batch, seen.windows)
        self.instance_metrics.update(records)
        return {
            "records": records,
            "probabilities": probabilities,
            "windows": seen.windows,
            "on_rois": target_probability(seen.on_rois),
        }

    def _log_metrics(self, stage: str) -> None:
        metrics = (self.loss_means.compute(), self.pixel_metrics.scalars(), self.instance_metrics.compute())
        for values in metrics:  # of all processes already
            self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=False)
        for metric in (self.loss_means, self.pixel_metrics, self.instance_metrics):
            metric.reset()
