"""`python -m roiseg.train`: train a decoder, test it, export it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from roiseg.callbacks.checkpoints import MidEpochCheckpoint, last_checkpoint_message
from roiseg.callbacks.instances import gather_from_all
from roiseg.common.errors import UserError, require_choice
from roiseg.common.files import as_utf8, write_json
from roiseg.common.outputs import check_folder
from roiseg.common.precision import slow_on_cpu
from roiseg.common.signals import Stop, stoppable
from roiseg.config import build
from roiseg.config.entry import command
from roiseg.config.lightning_messages import silence_lightning_warnings, trainer_errors
from roiseg.config.processes import Processes
from roiseg.config.run_dir import broadcast_folders, choose_run_folders, find_checkpoint
from roiseg.config.run_summary import (
    RunSummary,
    SummaryCallback,
    package_versions,
    parameter_counts,
    print_summary,
)
from roiseg.config.validation import TrainOptions, check_optimizer, validated
from roiseg.data.datamodule import RoiDataModule
from roiseg.diagnosis.detector import recall
from roiseg.diagnosis.finding import Diagnosis
from roiseg.inference.checkpoint import checkpoint_metadata, read_checkpoint
from roiseg.training.module import RoiSegModule
from roiseg.training.resume import checkpoint_progress

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> RunSummary:
    """Run one training from a composed configuration; returns what summary.json holds."""
    started = time.perf_counter()
    validated(cfg, TrainOptions)
    check_optimizer(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    with silence_lightning_warnings():  # a mistake in its settings shows before anything is written
        trainer = build.build_trainer(cfg, build.build_callbacks(cfg), [])
    for key in ("output_dir", "checkpoint_dir"):
        check_folder(cfg.paths[key], f"paths.{key}")
    check_logger_folders(cfg)
    with (
        stoppable(lambda: last_checkpoint_message(cfg.paths.checkpoint_dir)) as stop,
        Processes(trainer, cfg.trainer.get("strategy", "auto")) as processes,
    ):
        stop.quiet = not processes.first
        summary = run(cfg, processes, stop)
        summary.seconds = round(time.perf_counter() - started, 1)
        if processes.first:
            write_json(Path(cfg.paths.output_dir) / "summary.json", summary.content())
            print_summary(summary)
    return summary


def check_logger_folders(cfg: DictConfig) -> None:
    """Check that TensorBoard, if it is among the loggers, can write to the run's folder.

    Raises:
        UserError: the folder's name is not UTF-8.
    """
    folder = str(cfg.paths.output_dir)
    used = any("TensorBoard" in str(node["_target_"]) for node in build.object_nodes(cfg, "logger").values())
    if used and as_utf8(folder) != folder:
        raise UserError(
            f"paths.output_dir {folder}: TensorBoard cannot write to a name that is not UTF-8: "
            "give another folder, or logger=csv"
        )


def run(cfg: DictConfig, processes: Processes, stop: Stop) -> RunSummary:
    """Build, train and test, together with the other processes if there are any."""
    with processes.rank_zero_first():
        extractor = build.build_extractor(cfg)
        found = find_checkpoint(cfg, extractor) if processes.first else None
        decoder = build.build_decoder(cfg, extractor)
        data = build.build_datamodule(cfg, extractor, decoder)
        if processes.first and extractor.postprocess is not None:
            warn_of_detector(data)
        decoder.projection = extractor.projection
        loss = build.build_loss(cfg, decoder, data)
        clicks = build.build_clicks(cfg, decoder)
        distillation = build.build_distillation(cfg, decoder, extractor)
        if processes.first:
            choose_run_folders(cfg, found, processes.held)
    checkpoint = broadcast_folders(cfg, processes)
    if checkpoint is not None:
        data.first_epoch, data.first_batch = checkpoint_progress(read_checkpoint(checkpoint))
    description = checkpoint_metadata(build.to_plain(cfg), extractor, build.build_decision(cfg))
    module = build.build_module(cfg, decoder, loss, clicks, description, distillation)
    callbacks, loggers = build.build_callbacks(cfg), build.build_loggers(cfg)
    for callback in callbacks:
        if isinstance(callback, MidEpochCheckpoint):
            callback.stop = stop
    with silence_lightning_warnings():
        trainer = build.build_trainer(cfg, callbacks, loggers)
    processes.adopt_processes(trainer)
    slow = slow_on_cpu(trainer.precision) if trainer.strategy.root_device.type == "cpu" else ""
    if slow and processes.first:
        log.warning("%s", slow)
    for logger in loggers:
        logger.log_hyperparams(description["config"])
    fit(trainer, module, data, checkpoint)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") if cfg.test_best else ""
    if not best and checkpoint is not None and data.first_epoch >= trainer.current_epoch:
        best = str(checkpoint)  # nothing was left to train: with EMA, the averages are in the file only
    module.decision = processes.broadcast(module.decision)  # fitted when training ended
    results = test(trainer, module, data, best) if cfg.test else {}
    return summarize(cfg, trainer, data, module, results)


def warn_of_detector(data: RoiDataModule) -> None:
    """Warn if the detector does not find the annotated boxes, since its features may be wrong as well."""
    report = Diagnosis()
    with report.guard("detector's boxes", "note"):  # training does not need them
        report.add(*recall(data, images=4))
    for finding in report.findings:
        if finding.state == "warning":
            log.warning("%s", ": ".join(filter(None, (finding.text, finding.todo))))
    data.extractor.forget_head()


def fit(trainer: L.Trainer, module: L.LightningModule, data: RoiDataModule, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if one is given."""
    with silence_lightning_warnings(), trainer_errors():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def test(trainer: L.Trainer, module: L.LightningModule, data: RoiDataModule, best: str) -> dict[str, float]:
    """Measure a checkpoint, or the last weights, on the validation images."""
    if best:
        module.load_state_dict(read_checkpoint(best)["state_dict"])
    with silence_lightning_warnings(), trainer_errors():
        results = trainer.test(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


def summarize(
    cfg: DictConfig, trainer: L.Trainer, data: RoiDataModule, module: RoiSegModule, tested: dict[str, float]
) -> RunSummary:
    """Collect the results of a finished run."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    groups = ("model", "loss", "data", "extractor", "experiment")
    summary = RunSummary(
        output_dir=str(cfg.paths.output_dir),
        checkpoint_dir=str(cfg.paths.checkpoint_dir),
        seed=cfg.seed,
        resumed_from=cfg.ckpt_path,
        test=tested,
        tested_best=cfg.test_best,
        data={
            f"{split}_{what}": number
            for split in ("train", "val")
            for what, number in (("images", len(data.dataset(split))), ("rois", data.dataset(split).num_rois))
        },
        skipped_images=skipped_images(data),
        extractor_sha256=data.extractor.digest,
        feature_cache=None if data.cache is None else data.cache.summary(),
        parameters=parameter_counts(module.decoder),
        decision=module.decision.node(),
        versions=package_versions(),
        choices={group: hydra.runtime.choices.get(group) for group in groups} if hydra else {},
        overrides=list(hydra.overrides.task) if hydra else [],
    )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SummaryCallback):
            callback.add_to_summary(summary)
    return summary


def skipped_images(data: RoiDataModule) -> dict[str, dict[str, Any]]:
    """Count the images left out (data.on_error=skip) per stage; all processes must call it."""
    return {
        stage: {
            "times": sum(gather_from_all([skipped.count])),
            "reasons": sorted(set(gather_from_all(skipped.reasons))),
        }
        for stage, skipped in data.skipped.items()
    }


@command("train", kept=lambda cfg: last_checkpoint_message(cfg.paths.checkpoint_dir))
def main(cfg: DictConfig) -> float | None:
    """Train, and return the metric that a sweeper optimizes."""
    torch.set_float32_matmul_precision("high")
    best, name = train(cfg).best, cfg.optimized_metric
    if name is None or not best:
        return None
    require_choice("optimized_metric", name, best)
    return best[name]


if __name__ == "__main__":
    main()
