"""`python -m roiseg.train`: train a decoder, draw it, export it."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict

from roiseg.callbacks.checkpoints import EpochCheckpoint, MidEpochCheckpoint, last_checkpoint_message
from roiseg.callbacks.history import History
from roiseg.callbacks.instances import gather_from_all
from roiseg.callbacks.onnx_export import OnnxExport
from roiseg.callbacks.overlays import ValidationOverlays
from roiseg.common.errors import UserError, closest_matches
from roiseg.common.files import atomic_path, remove_leftovers, require_file, write_json
from roiseg.common.outputs import check_folder, own
from roiseg.common.signals import Stop, stoppable
from roiseg.config import build
from roiseg.config.entry import command
from roiseg.config.processes import Processes
from roiseg.config.run_dir import create_unique_dir, is_claimed, is_run, lock_run_dir
from roiseg.config.run_summary import best_epoch, package_versions, parameter_counts, print_summary
from roiseg.config.validation import TrainOptions, check_optimizer, validated
from roiseg.data.datamodule import RoiDataModule
from roiseg.diagnosis.finding import Diagnosis
from roiseg.diagnosis.recall import recall
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import checkpoint_metadata, newest_checkpoint, read_checkpoint
from roiseg.training.resume import check_resumable, checkpoint_progress, find_last

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run one training from a composed configuration; returns what summary.json holds."""
    started = time.perf_counter()
    validated(cfg, TrainOptions)
    check_optimizer(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    with silence_lightning_warnings():  # a mistake in its settings shows before anything is written
        trainer = build.build_trainer(cfg, build.build_callbacks(cfg), [])
    for key in ("output_dir", "checkpoint_dir"):
        check_folder(cfg.paths[key], f"paths.{key}")
    with (
        stoppable(lambda: last_checkpoint_message(cfg.paths.checkpoint_dir)) as stop,
        Processes(trainer, cfg.trainer.get("strategy", "auto")) as processes,
    ):
        stop.quiet = not processes.first
        summary = run(cfg, processes, stop)
        summary["seconds"] = round(time.perf_counter() - started, 1)
        if processes.first:
            write_json(Path(cfg.paths.output_dir) / "summary.json", summary)
            print_summary(summary)
    return summary


def run(cfg: DictConfig, processes: Processes, stop: Stop) -> dict[str, Any]:
    """Build, train and test, together with the other processes if there are any."""
    with processes.rank_zero_first():
        extractor = build.build_extractor(cfg)
        found = find_checkpoint(cfg, extractor) if processes.first else None
        decoder = build.build_decoder(cfg, extractor)
        data = build.build_datamodule(cfg, extractor, decoder)
        if processes.first and extractor.postprocess is not None:
            warn_of_detector(data)
        loss = build.build_loss(cfg, decoder, data)
        clicks = build.build_clicks(cfg, decoder)
        if processes.first:
            choose_run_folders(cfg, found, processes.held)
    checkpoint = broadcast_folders(cfg, processes)
    if checkpoint is not None:
        data.first_epoch, data.first_batch = checkpoint_progress(read_checkpoint(checkpoint))
    description = checkpoint_metadata(build.to_plain(cfg), extractor)
    module = build.build_module(cfg, decoder, loss, clicks, description)
    callbacks, loggers = build.build_callbacks(cfg), build.build_loggers(cfg)
    for callback in callbacks:
        if isinstance(callback, MidEpochCheckpoint):
            callback.stop = stop
    with silence_lightning_warnings():
        trainer = build.build_trainer(cfg, callbacks, loggers)
    processes.adopt_processes(trainer)
    for logger in loggers:
        logger.log_hyperparams(description["config"])
    fit(trainer, module, data, checkpoint)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") if cfg.test_best else ""
    if not best and checkpoint is not None and data.first_epoch >= trainer.current_epoch:
        best = str(checkpoint)  # nothing was left to train: with EMA, the averages are in the file only
    tested = test(trainer, module, data, best) if cfg.test else {}
    return {**summarize(cfg, trainer, data, tested), "parameters": parameter_counts(decoder)}


def warn_of_detector(data: RoiDataModule) -> None:
    """Warn where the detector does not find what is annotated: its features may be wrong, too."""
    report = Diagnosis()
    with report.guard("detector's boxes", "note"):  # training does not need them
        report.add(*recall(data, images=4))
    for finding in report.findings:
        if finding.state == "warning":
            log.warning("%s", ": ".join(filter(None, (finding.text, finding.todo))))
    data.extractor.forget_head()


def find_checkpoint(cfg: DictConfig, extractor: OnnxExtractor) -> Path | None:
    """The checkpoint `ckpt_path` asks to go on from, if any, checked to fit this run."""
    if cfg.ckpt_path is None:
        return None
    if cfg.ckpt_path != "last":
        hint = "set ckpt_path to a .pth file or to `last`"
        found: Path | None = require_file(cfg.ckpt_path, "checkpoint", hint).absolute()
    else:
        found = find_last(Path(cfg.paths.checkpoint_dir).absolute(), build.to_plain(cfg))
    if found is None:
        log.warning("ckpt_path=last: this run has no checkpoint yet, it starts from the beginning")
    else:
        check_resumable(found, checkpoint_metadata(build.to_plain(cfg), extractor))
    return found


def choose_run_folders(cfg: DictConfig, checkpoint: Path | None, held: ExitStack) -> None:
    """Settle where this run writes, in `cfg.paths`, and leave a copy of the configuration there.

    A run that goes on from the newest checkpoint of itself keeps its folders, if they prove to be those of
    one run: what a checkpoint says does not decide. Any other gets folders that no other run has. Until
    `held` is closed no other process goes on in them.

    Raises:
        UserError: another process trains there just now.
    """
    output, checkpoints = Path(cfg.paths.output_dir).absolute(), Path(cfg.paths.checkpoint_dir).absolute()
    before = None if checkpoint is None else run_of(checkpoint)
    if before is not None and cfg.ckpt_path == "last" and before[1] != checkpoints:
        output, checkpoints = before
    goes_on = checkpoint is not None and checkpoint.parent == checkpoints and is_claimed(checkpoints)
    if before != (output, checkpoints):
        output = create_unique_dir(output)
    if not goes_on:
        checkpoints = create_unique_dir(checkpoints)
    for folder in (output, checkpoints):
        held.enter_context(lock_run_dir(folder))
    if goes_on:
        remove_leftovers(output, checkpoints)
        if cfg.ckpt_path == "last":  # another process may have gone on meanwhile, and ended
            checkpoint = newest_checkpoint(checkpoints)
    with open_dict(cfg):
        cfg.paths.output_dir, cfg.paths.checkpoint_dir = str(output), str(checkpoints)
        cfg.ckpt_path = None if checkpoint is None else str(checkpoint)
    with atomic_path(output / "config.yaml") as path:
        OmegaConf.save(cfg, path, resolve=True)
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)


def run_of(checkpoint: Path) -> tuple[Path, Path] | None:
    """Folders of output and checkpoints of the run that wrote a checkpoint, if they are still that run's."""
    paths = read_checkpoint(checkpoint)["roiseg"]["config"].get("paths")
    output = paths.get("output_dir") if isinstance(paths, dict) else None
    if not isinstance(output, str) or not is_run(Path(output), checkpoint.parent):
        return None
    return Path(output), checkpoint.parent


def broadcast_folders(cfg: DictConfig, processes: Processes) -> Path | None:
    """Write where the first process writes; returns the checkpoint to go on from, if any."""
    keys = ("paths.output_dir", "paths.checkpoint_dir", "ckpt_path")
    for key, value in zip(
        keys, processes.broadcast([OmegaConf.select(cfg, key) for key in keys]), strict=True
    ):
        OmegaConf.update(cfg, key, value)
    for folder in (cfg.paths.output_dir, cfg.paths.checkpoint_dir):
        own(Path(folder))
    return None if cfg.ckpt_path is None else Path(cfg.ckpt_path)


def fit(trainer: L.Trainer, module: L.LightningModule, data: RoiDataModule, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if one is given."""
    with silence_lightning_warnings(), told_by_lightning():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def test(trainer: L.Trainer, module: L.LightningModule, data: RoiDataModule, best: str) -> dict[str, float]:
    """Measure a checkpoint (the last weights if none is given) on the validation images."""
    if best:
        module.load_state_dict(read_checkpoint(best)["state_dict"])
    with silence_lightning_warnings(), told_by_lightning():
        results = trainer.test(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


@contextmanager
def told_by_lightning() -> Iterator[None]:
    """Make a user's error of what Lightning itself refuses when it sees the data.

    Raises:
        UserError: settings of the trainer that the data does not fit.
    """
    try:
        yield
    except (MisconfigurationException, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("lightning."):
            raise UserError(f"configuration `trainer`: {error}") from None
        raise


@contextmanager
def silence_lightning_warnings() -> Iterator[None]:
    """Keep Lightning's advice that does not apply here off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message)
        yield


_ADVICE = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    ".*was used without a .* scheduler.*",
    ".*checkpoint that ended before the epoch ended.*",  # data.first_batch
    ".*recommended to use .self.log.*sync_dist=True.*",  # metrics are of all processes already
    ".*it is recommended to use .Trainer.devices=1.*",  # evaluation repeats no image
    ".*method of metric .* was called before.*",  # on a process without an image to evaluate
    ".*broadcast_buffers. is deprecated.*",  # its successor is not in older torch
)


def summarize(
    cfg: DictConfig, trainer: L.Trainer, data: RoiDataModule, tested: dict[str, float]
) -> dict[str, Any]:
    """Everything a script may want to know about a finished run."""
    found: dict[type, Any] = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
    history = found[History].epochs if History in found else []
    checkpoints, overlays, exported = (
        found.get(t) for t in (EpochCheckpoint, ValidationOverlays, OnnxExport)
    )
    best = best_epoch(history, checkpoints.monitor if checkpoints else "val/miou")
    final = history[-1] if history else {}
    return {
        "final": _metrics(final),
        "best": _metrics(best),
        "test": tested,
        "best_epoch": best.get("epoch"),
        "tested_epoch": best.get("epoch") if cfg.test_best else len(history),
        "epochs": len(history),
        "history": history,
        "output_dir": str(cfg.paths.output_dir),
        "checkpoint_dir": str(cfg.paths.checkpoint_dir),
        "best_checkpoint": (checkpoints.best_model_path or None) if checkpoints else None,
        "last_overlay": str(overlays.last) if overlays and overlays.last else None,
        "onnx": str(exported.path) if exported and exported.path else None,
        "onnx_check": exported.check.summary() if exported and exported.check else None,
        "data": {
            f"{split}_{what}": number
            for split in ("train", "val")
            for what, number in (("images", len(data.dataset(split))), ("rois", data.dataset(split).num_rois))
        },
        "skipped_images": skipped_images(data),
        "extractor_sha256": data.extractor.digest,
        "feature_cache": None if data.cache is None else data.cache.summary(),
        "seed": cfg.seed,
        "resumed_from": cfg.ckpt_path,
        "versions": package_versions(),
        **_invocation(),
    }


def skipped_images(data: RoiDataModule) -> dict[str, dict[str, Any]]:
    """How often images were left out (data.on_error=skip) in training, validation and test, and why each."""
    return {
        stage: {
            "times": sum(gather_from_all([skipped.count])),
            "reasons": sorted(set(gather_from_all(skipped.reasons))),
        }
        for stage, skipped in data.skipped.items()
    }


def _invocation() -> dict[str, Any]:
    """What the command line chose."""
    if not HydraConfig.initialized():
        return {"choices": {}, "overrides": []}
    hydra = HydraConfig.get()
    choices = {
        group: hydra.runtime.choices.get(group)
        for group in ("model", "loss", "data", "extractor", "experiment")
    }
    return {"choices": choices, "overrides": list(hydra.overrides.task)}


def _metrics(epoch: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name != "epoch"}


@command("train", kept=lambda cfg: last_checkpoint_message(cfg.paths.checkpoint_dir))
def main(cfg: DictConfig) -> float | None:
    """Train, and return the metric a sweeper optimises."""
    torch.set_float32_matmul_precision("high")
    summary = train(cfg)
    name = cfg.optimized_metric
    if name is None or not summary["best"]:
        return None
    if name not in summary["best"]:
        close = ", ".join(closest_matches(name, summary["best"]))
        raise UserError(f"optimized_metric: no metric `{name}` was logged (nearest: {close})")
    return summary["best"][name]


if __name__ == "__main__":
    main()
