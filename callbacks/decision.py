"""Fit the decision when training ends."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
from pydantic import PositiveInt

from roiseg.callbacks.checkpoints import tested_checkpoint
from roiseg.config.run_summary import RunSummary, SummaryCallback
from roiseg.data.datamodule import RoiDataModule
from roiseg.evaluation.decision_fit import DecisionFit, fit_decision
from roiseg.inference.checkpoint import load_model, write_decision
from roiseg.inference.decision import Decision
from roiseg.inference.model import TorchModel
from roiseg.training.module import RoiSegModule

log = logging.getLogger(__name__)


class FitDecision(L.Callback, SummaryCallback):
    """Fits the numbers of `decision` that are null, and calibrates the mask scores, in the tested checkpoint.

    They are fitted on the validation images; a run that only tests the checkpoint of another run takes over
    what that run fitted. With folds they stay as they are, since the held-out images measure the run:
    `python -m roiseg.decide` fits them on the other folds.

    Args:
        best: fit the best checkpoint; False: the newest.

    Attributes:
        fitted_on: what was used, after the fit.
    """

    def __init__(self, best: bool = True, max_rois: PositiveInt = 400) -> None:
        self.best = best
        self.max_rois = max_rois
        self.fitted_on: str | None = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit on the first process if there is a checkpoint."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        checkpoint = tested_checkpoint(trainer.checkpoint_callback, self.best)
        if checkpoint is None and trainer.checkpoint_callback is not None and trainer.ckpt_path is not None:
            checkpoint = Path(trainer.ckpt_path)  # resumed where it ended: no epoch was left
        decision = pl_module.decision
        nothing = not decision.unfitted and decision.score_slope is not None
        if checkpoint is None or data.folds or nothing or not trainer.is_global_zero:
            return
        own = Path(str(trainer.checkpoint_callback.dirpath))  # type: ignore[union-attr]
        if checkpoint.absolute().parent != own.absolute():  # resumed from elsewhere: never change its files
            known = load_model(checkpoint).decision
            if known.unfitted or not _completes(known, decision):
                log.warning(
                    "decision: not fitted, since the best checkpoint is of another run: %s", checkpoint
                )
                return
            pl_module.decision, self.fitted_on = known, f"fitted by the run of {checkpoint}"
            return
        fit = DecisionFit(TorchModel(load_model(checkpoint), data.extractor, pl_module.device))
        for batch in data.test_dataloader(shared=False):
            fit.update(batch)
            if fit.rois >= self.max_rois:
                break
        decision = fit_decision(decision, [fit])
        write_decision(checkpoint, decision)
        pl_module.decision = decision
        self.fitted_on = f"fitted on {fit.rois} ROIs of the validation images"
        log.info("decision: %s", self.fitted_on)

    def add_to_summary(self, summary: RunSummary) -> None:
        """Set what the decision was fitted on."""
        summary.decision_fit = self.fitted_on


def _completes(known: Decision, wanted: Decision) -> bool:
    """Tell whether a decision is the wanted one with numbers in place of those that are None."""
    given = {entry.name: getattr(wanted, entry.name) for entry in fields(wanted)}
    return type(known) is type(wanted) and all(
        value is None or value == getattr(known, name) for name, value in given.items()
    )
