"""Stop training at the first non-finite loss or gradient, before a checkpoint of it is written."""

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
    """Stops training when a loss term or the gradient is NaN or infinite.

    On a GPU the values of a step are copied to the host while the next steps run, and checked once they have
    arrived; only the end of an epoch waits for them, before its checkpoint is written. In fp16 the gradient
    is not checked: loss scaling makes it infinite on purpose.

    Raises:
        UserError: the message names epoch, step and term, settings to change, and the last good checkpoint.
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
        """Copy the step's values, and check those that have arrived."""
        values = {f"loss term `{name}`": value for name, value in outputs["terms"].items()}
        values["the loss"] = outputs["loss"]
        if self._norm is not None:
            values[_GRADIENT] = self._norm
        self._norm = None
        self._copies.append(_Step.of(batch_idx + 1, values))
        while self._copies and self._copies[0].arrived():
            self._check_step(self._copies.popleft(), trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the remaining steps, the validation losses and the final weights of the epoch."""
        while self._copies:
            self._check_step(self._copies.popleft(), trainer)
        weights = get_total_norm([p.detach() for p in pl_module.parameters()])
        losses = {f"`{name}`": value for name, value in trainer.callback_metrics.items() if "/loss" in name}
        where = f"epoch {trainer.current_epoch + 1}, after its last step"
        _check(where, {**losses, "the weights' norm": weights}, trainer)

    def _check_step(self, step: _Step, trainer: L.Trainer) -> None:
        step.wait()
        where = f"epoch {trainer.current_epoch + 1}, step {step.number} of {trainer.num_training_batches}"
        _check(where, dict(zip(step.names, step.values, strict=True)), trainer)


class _Step(NamedTuple):
    """Values of one step, on their way to the host."""

    number: int  # 1-based, in its epoch
    names: list[str]
    values: Tensor
    copied: torch.cuda.Event | None  # None: values are on the host

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
        checkpoint = last_checkpoint_message(getattr(trainer.checkpoint_callback, "dirpath", None))
        raise UserError(f"{where}: {', '.join(wrong)}: {_advice(trainer)}; {checkpoint}")


def _advice(trainer: L.Trainer) -> str:
    rate, clip = trainer.optimizers[0].param_groups[0]["lr"], trainer.gradient_clip_val
    return (
        f"lower optimizer.lr (now {rate:.2g}), lower trainer.gradient_clip_val (now {clip}), "
        f"try trainer.precision=32-true (now {trainer.precision}), check loss.class_weights"
    )
