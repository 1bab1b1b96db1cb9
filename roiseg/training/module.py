"""The LightningModule: any decoder, any loss, the same metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.decoders.base import Context, Decoder, DecoderOutput, decode_in_chunks
from roiseg.inference.decision import Decision, Threshold
from roiseg.inference.model import predict_rois
from roiseg.losses.composite import CompositeLoss
from roiseg.metrics.roi import Means, MeasuredBatch, RoiMetrics, WeightedMean
from roiseg.training.clicks import Clicks
from roiseg.training.distillation import Distillation
from roiseg.training.schedules import constant


class RoiSegModule(L.LightningModule):
    """Trains a decoder on features that arrive ready in the batch.

    Args:
        optimizer: parameters -> optimiser.
        scheduler: (optimiser, total steps) -> schedule stepped every optimiser step; None keeps the rate.
        clicks: draws point prompts for training batches; None gives none.
        decision: makes masks of predictions, in validation and test; None: a threshold of 0.5.
        distillation: teachers whose predictions training batches are compared with; None: there are none.
        max_rois: how many ROIs are decoded at a time. More come in parts, at no more memory than this many
            and with the same gradients.
        seed: training randomness (such as dropout) depends on it, the epoch and the step only, so that
            a resumed run equals an uninterrupted one.
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
        max_rois: PositiveInt = 128,
        decision: Decision | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.description = description
        self.clicks = clicks
        self.max_rois = max_rois
        self.decision = decision or Threshold()
        self.distillation = distillation
        self.metrics = RoiMetrics(decoder.num_classes)
        names = ["loss", *(f"loss_{name}" for name in loss.terms)]
        self.loss_means = Means(names)
        taught = [] if distillation is None else ["loss_distillation"]
        self.train_means = nn.ModuleDict({name: WeightedMean() for name in names + taught})
        self._resumed_steps: int | None = None

    def forward(self, batch: RoiBatch) -> DecoderOutput:
        """Decode a batch whose features are filled in."""
        return decode_in_chunks(self.decoder, batch.features, batch.rois, self._context(batch), self.max_rois)

    def on_train_batch_start(self, batch: RoiBatch, batch_idx: int) -> None:
        """Make the step's randomness independent of what ran before it; switch on terms that start now."""
        self.loss.epoch = self.current_epoch + 1
        step = np.random.SeedSequence((self.seed, self.current_epoch, batch_idx, self.global_rank))
        torch.manual_seed(int(step.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: RoiBatch, batch_idx: int) -> dict[str, Any]:
        """Return the `loss` of one batch and, for callbacks, the `terms` it is made of, by name."""
        output = self(batch)
        losses = self._losses(output, batch)
        if self.distillation is not None:
            context = self._context(batch)
            value = self.distillation(output.logits, self.decoder, batch, context, self.max_rois)
            losses |= {"loss": losses["loss"] + self.distillation.weight * value, "loss_distillation": value}
        for name, value in losses.items():
            mean = self._train_mean(name)
            mean.update(value.detach(), len(batch.rois))
            self.log(f"train/{name}", mean, on_step=False, on_epoch=True)
        terms = {
            name.removeprefix("loss_"): value.detach() for name, value in losses.items() if name != "loss"
        }
        return {"loss": losses["loss"] * self._share(batch), "terms": terms}

    def _share(self, batch: RoiBatch) -> Tensor | float:
        """Return the weight of a batch relative to those of other processes, whose gradients are averaged.

        It makes every ROI of a step count the same: one process may have fewer than another,
        or none, where images are left out.
        """
        if self.trainer.world_size == 1:
            return 1.0
        rois = torch.tensor(float(len(batch.rois)), device=self.device)
        total = rois.clone()
        distributed.all_reduce(total)
        return rois * self.trainer.world_size / total.clamp(min=1)

    def validation_step(  # type: ignore[override]
        self, batch: RoiBatch, batch_idx: int
    ) -> MeasuredBatch | None:
        """Measure one batch; return what callbacks read, None on a process without an image to evaluate."""
        return self._measure(batch, self.trainer.val_dataloaders)

    def test_step(  # type: ignore[override]
        self, batch: RoiBatch, batch_idx: int
    ) -> MeasuredBatch | None:
        """Measure one batch, its views averaged (losses aside); return what `validation_step` does."""
        return self._measure(batch, self.trainer.test_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics("test")

    @torch.no_grad()
    def predict(self, batch: RoiBatch) -> RoiPrediction:
        """Predict a batch with its features, and decide its masks."""
        return self._predict(self(batch), batch)

    def _predict(self, output: DecoderOutput, batch: RoiBatch) -> RoiPrediction:
        prediction = predict_rois(output.logits, batch, self.decoder, lambda view: self(view).logits)
        return self.decision(prediction, batch.rois, self.decoder.image_size)

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule for the whole run."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            scheduler: LRScheduler = constant(optimizer, total_steps=0)  # logged like any other
        else:
            total_steps = self.trainer.estimated_stepping_batches
            if total_steps == float("inf"):
                raise UserError(
                    "a scheduler must know how long the run is: set trainer.max_epochs, or scheduler=null"
                )
            scheduler = self.make_scheduler(optimizer, total_steps=int(total_steps))
        schedule = {"scheduler": scheduler, "interval": "step", "name": "train/lr"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def train_losses(self) -> dict[str, tuple[float, float]]:
        """Sum and weight of each training loss so far in this epoch, of all processes."""
        found = {}
        for name in self.train_means:
            mean = self._train_mean(name)
            with mean.sync_context():
                found[name] = (float(mean.mean_value), float(mean.weight))
        return found

    def resume_from(self, losses: dict[str, tuple[float, float]]) -> None:
        """Continue an epoch whose training losses were `train_losses()` so far."""
        if self.global_rank == 0:  # the sum over the processes counts them once
            for name, (total, weight) in losses.items():
                mean = self._train_mean(name)
                mean.mean_value.fill_(total)
                mean.weight.fill_(weight)

    def _train_mean(self, name: str) -> Any:
        return self.train_means[name]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to the checkpoint what inference needs and what a resumed run must match."""
        checkpoint["roiseg"] = {**self.description, "decision": self.decision.node()}
        checkpoint["steps"] = int(self.trainer.num_training_batches)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the length of the checkpoint's epochs."""
        self._resumed_steps = checkpoint.get("steps")

    def on_train_start(self) -> None:
        """Refuse to resume where an epoch has another number of steps: the schedule would be out of place.

        Raises:
            UserError: it has.
        """
        before, now = self._resumed_steps, self.trainer.num_training_batches
        if before not in (None, now):
            raise UserError(
                f"the checkpoint was trained with epochs of {before} steps, this run's have {now}: resume "
                "with the same images, data.batch_size and devices, or start without ckpt_path"
            )

    def _context(self, batch: RoiBatch) -> Context:
        points = None
        if self.clicks is not None and self.training:
            points = self.clicks(batch.targets, self.decoder.extents(batch.rois))
        return Context(image=batch.inputs, pixel_size=batch.pixel_sizes, points=points)

    def _losses(self, output: DecoderOutput, batch: RoiBatch) -> dict[str, Tensor]:
        total, values = self.loss(output, batch.targets)
        return {"loss": total, **{f"loss_{name}": value for name, value in values.items()}}

    def _measure(self, batch: RoiBatch, loader: Any) -> MeasuredBatch | None:
        if getattr(loader.sampler, "idle", False):
            return None
        output = self(batch)
        self.loss_means.update(self._losses(output, batch), len(batch.rois))
        prediction = self._predict(output, batch)
        return self.metrics.update(prediction, batch)

    def _log_metrics(self, stage: str) -> None:
        for metric in (self.loss_means, self.metrics):
            values = {f"{stage}/{name}": value for name, value in metric.compute().items()}
            self.log_dict(values, sync_dist=False)  # of all processes already
            metric.reset()
