"""What this run was set to, in TensorBoard's table of hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from torch.utils.tensorboard.summary import hparams

from callbacks.tensorboard import writers
from roiseg.common.files import as_utf8
from roiseg.reporting.runs import flatten
from roiseg.training.module import RoiSegModule

Value = str | float | int | bool


class HyperParameters(L.Callback):
    """Enters the run in TensorBoard's tab HPARAMS: a row with its settings and every scalar's last value.

    The settings are few: choices of some configuration groups, values of some keys, and whatever the command
    line overrides. Which columns there are is left to TensorBoard, which takes those of all runs together;
    a list of columns in the file of one run would hide the settings that only others have.

    Args:
        groups: configuration groups whose choice is shown (`model`, `data/augment`).
        keys: configuration keys whose value is shown (`seed`).
        left_out: keys, and all below them, of overrides that are not shown.
    """

    def __init__(self, groups: Sequence[str], keys: Sequence[str], left_out: Sequence[str] = ()) -> None:
        self.groups = groups
        self.keys = keys
        self.left_out = left_out

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the settings."""
        assert isinstance(pl_module, RoiSegModule)
        config = flatten(pl_module.description.get("config", {}))
        settings = {**self._choices(), **shown(config, [*self.keys, *self._overridden()])}
        _, start, _ = hparams(settings, {})
        self._write(trainer, start)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the run as finished."""
        _, _, end = hparams({}, {})
        self._write(trainer, end)

    def _write(self, trainer: L.Trainer, summary: Any) -> None:
        for writer in writers(trainer):
            writer._get_file_writer().add_summary(summary)  # `add_hparams` would open a second run

    def _choices(self) -> dict[str, Value]:
        if not HydraConfig.initialized():  # composed in Python
            return {}
        choices = HydraConfig.get().runtime.choices
        return {group: choices[group] for group in self.groups if choices.get(group) is not None}

    def _overridden(self) -> list[str]:
        """Keys of the command line that are no group's choice."""
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        keys = [override.lstrip("+").partition("=")[0] for override in overrides]
        return [
            key for key in keys if not any(key == out or key.startswith(f"{out}.") for out in self.left_out)
        ]


def shown(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Value]:
    """The values of `keys`, as far as there are any; numbers, truth values and texts as they are."""
    values = {key: config[key] for key in dict.fromkeys(keys) if config.get(key) is not None}
    return {
        key: value if isinstance(value, (float, int, bool)) else as_utf8(str(value))
        for key, value in values.items()
    }
