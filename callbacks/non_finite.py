"""Ends a run at the step whose numbers are none, before anything of it is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from roiseg.callbacks.checkpoints import last_checkpoint_message
from roiseg.common.errors import UserError

_GRADIENT = "the gradient"


class StopOnNonFinite(L.Callback):
    """Stops training where a loss term or the gradient is NaN or infinite.

    On a GPU the numbers of a step are copied to the host while the next steps run, and looked at when they
    are there: nothing waits for them but the end of an epoch, before its checkpoint is written. The step
    that is named is the one they belong to. An infinite gradient in fp16 is how its loss scale is found, and
    no fault.

    Raises:
        UserError: names epoch, step and term, what to look at, and the last good checkpoint.
    """

    def __init__(self) -> None:
        self._copies: deque[_Step] = deque()
        self._norm: Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the gradient before it is clipped."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._norm = get_total_norm(gradients, foreach=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step's numbers, and look at those that have arrived."""
        numbers = {f"loss term `{name}`": value for name, value in outputs["terms"].items()}
        numbers["the loss"] = outputs["loss"]
        if self._norm is not None:
            numbers[_GRADIENT] = self._norm
        self._norm = None
        self._copies.append(_Step.of(batch_idx + 1, numbers))
        while self._copies and self._copies[0].arrived():
            self._look(self._copies.popleft(), trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at what is left of the epoch, at its validation, and at the weights it ends with."""
        while self._copies:
            self._look(self._copies.popleft(), trainer)
        weights = get_total_norm([p.detach() for p in pl_module.parameters()])
        found = {f"`{name}`": value for name, value in trainer.callback_metrics.items() if "/loss" in name}
        where = f"epoch {trainer.current_epoch + 1}, after its last step"
        _check(where, {**found, "the weights' norm": weights}, trainer)

    def _look(self, step: _Step, trainer: L.Trainer) -> None:
        step.wait()
        where = f"epoch {trainer.current_epoch + 1}, step {step.number} of {trainer.num_training_batches}"
        _check(where, dict(zip(step.names, step.values, strict=True)), trainer)


class _Step(NamedTuple):
    """What one step measured, on its way to the host."""

    number: int  # 1-based, in its epoch
    names: list[str]
    values: Tensor
    copied: torch.cuda.Event | None  # None: it is there

    @classmethod
    def of(cls, number: int, numbers: Mapping[str, Tensor]) -> _Step:
        values = torch.stack([value.detach().float() for value in numbers.values()])
        if not values.is_cuda:
            return cls(number, list(numbers), values, None)
        host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return cls(number, list(numbers), host, event)

    def arrived(self) -> bool:
        return self.copied is None or self.copied.query()

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


def _check(where: str, numbers: Mapping[str, Tensor], trainer: L.Trainer) -> None:
    values = {name: float(value) for name, value in numbers.items()}
    wrong = [
        f"{name} is {value}" for name, value in values.items() if not torch.isfinite(torch.tensor(value))
    ]
    if wrong:
        left = last_checkpoint_message(getattr(trainer.checkpoint_callback, "dirpath", None))
        raise UserError(f"{where}: {', '.join(wrong)}: {_advice(trainer)}; {left}")


def _advice(trainer: L.Trainer) -> str:
    rate, clip = trainer.optimizers[0].param_groups[0]["lr"], trainer.gradient_clip_val
    return (
        f"lower optimizer.lr (now {rate:.2g}), lower trainer.gradient_clip_val (now {clip}), "
        f"try trainer.precision=32-true (now {trainer.precision}), look at loss.class_weights"
    )
