"""Build the objects of a run from a composed configuration; no class is known by name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from roiseg.common.errors import UserError, require_any
from roiseg.data.analysis import analysis_path, load_or_make_analysis
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.targets import TargetSpec
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.decision import Decision
from roiseg.losses.composite import CompositeLoss
from roiseg.training.clicks import Clicks
from roiseg.training.distillation import Distillation
from roiseg.training.module import RoiSegModule

log = logging.getLogger(__name__)


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts, lists and values, with interpolations resolved.

    Raises:
        UserError: a value that must be given is missing.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"configuration `{missing[0]}` must be given: add {missing[0]}=...")
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def build_extractor(cfg: DictConfig) -> OnnxExtractor:
    """Build the frozen detector of `extractor=`."""
    return instantiate(cfg.extractor, _convert_="all")


def build_decoder(cfg: DictConfig, extractor: OnnxExtractor) -> Decoder:
    """Build the decoder of `model=` for the extractor's features."""
    return instantiate(
        cfg.model,
        in_channels=extractor.channels,
        strides=extractor.strides,
        image_size=extractor.preprocess.image_size,
        _convert_="all",
    )


def make_datamodule(cfg: DictConfig, extractor: OnnxExtractor, decoder: Decoder) -> RoiDataModule:
    """Build the data module of `data=`, with targets on the decoder's grid; nothing is read yet."""
    spec = TargetSpec(decoder.frame, decoder.output_size, decoder.num_classes, decoder.image_size)
    make = instantiate(cfg.data, _partial_=True, _convert_="all")
    try:
        return make(extractor=extractor, spec=spec, needs_images="image" in decoder.context_inputs)
    except TypeError as error:
        if "argument" not in str(error):  # an error of the program itself
            raise
        raise UserError(f"configuration `data`: {error}") from None


def build_datamodule(cfg: DictConfig, extractor: OnnxExtractor, decoder: Decoder) -> RoiDataModule:
    """Build the data module of `data=`; the data set is made if missing, read and checked."""
    data = make_datamodule(cfg, extractor, decoder)
    data.prepare_data()
    data.setup()
    return data


def build_loss(cfg: DictConfig, decoder: Decoder, data: RoiDataModule) -> CompositeLoss:
    """Build the weighted sum of `loss=`."""
    loss: CompositeLoss = instantiate(
        cfg.loss, class_weights=class_weights(cfg, decoder, data), _convert_="all"
    )
    loss.check(decoder)
    return loss


def build_clicks(cfg: DictConfig, decoder: Decoder) -> Clicks | None:
    """Build the point prompts of `clicks=`, if any."""
    if not cfg.clicks:
        return None
    if "points" not in decoder.prompts:
        raise UserError("clicks are point prompts, which this model does not read: set clicks=null")
    return instantiate(cfg.clicks, _convert_="all")


def build_distillation(cfg: DictConfig, decoder: Decoder, extractor: OnnxExtractor) -> Distillation | None:
    """Load and check the teachers of `distillation=`, if any."""
    if not cfg.distillation:
        return None
    distillation: Distillation = instantiate(cfg.distillation, _convert_="all")
    distillation.check(decoder, extractor, to_plain(cfg)["data"])
    return distillation


def build_module(
    cfg: DictConfig,
    decoder: Decoder,
    loss: CompositeLoss,
    clicks: Clicks | None,
    description: dict[str, Any],
    distillation: Distillation | None = None,
) -> RoiSegModule:
    """Build the LightningModule from decoder, loss, optimizer, schedule, point prompts and teachers."""
    optimizer = instantiate(cfg.optimizer, _convert_="all")
    scheduler = instantiate(cfg.scheduler, _convert_="all") if cfg.scheduler else None
    return RoiSegModule(
        decoder, loss, optimizer, scheduler, cfg.seed, description, clicks, cfg.max_rois,
        build_decision(cfg), distillation,
    )  # fmt: skip


def build_decision(cfg: DictConfig) -> Decision:
    """Build the decision of `decision=`."""
    return instantiate(cfg.decision, _convert_="all")


def given_decision(cfg: DictConfig) -> Decision | None:
    """Build a decision that replaces the fitted one of a checkpoint; None: it is not replaced.

    Raises:
        UserError: a number is null, which only a training fits.
    """
    if not cfg.decision:
        return None
    decision = build_decision(cfg)
    if decision.unfitted:
        raise UserError(f"decision.{decision.unfitted[0]} is null: give a number, only a training fits it")
    return decision


def class_weights(cfg: DictConfig, decoder: Decoder, data: RoiDataModule) -> list[float] | None:
    """Return one weight per class: None, as listed, or from `data_analyze.json` (made if missing)."""
    wanted = cfg.loss.class_weights
    if wanted is None:
        return None
    if isinstance(wanted, ListConfig):
        if len(wanted) != decoder.num_classes:
            raise UserError(
                f"loss.class_weights has {len(wanted)} numbers, model.num_classes is {decoder.num_classes}"
            )
        require_any("loss.class_weights", *wanted)
        return [float(weight) for weight in wanted]
    annotations = data.dataset("train").annotations
    folder = Path(cfg.paths.analysis_dir) / (data.folds.name if data.folds else "")
    path = analysis_path(folder, annotations.path)
    analysis = load_or_make_analysis(path, annotations, data.min_roi_size)
    weights: list[float] = analysis["class_weights"][wanted][str(decoder.num_classes)]
    log.info("class weights (%s, %s): %s", wanted, path, ", ".join(f"{w:.3f}" for w in weights))
    return weights


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Build every entry of `callbacks` that has a `_target_`.

    The progress bar only on a terminal, the monitor of the learning rate only with a logger.
    """
    nodes = object_nodes(cfg, "callbacks")
    if not sys.stdout.isatty():
        nodes.pop("progress", None)
    callbacks = [instantiate(node, _convert_="all") for node in nodes.values()]
    return [each for each in callbacks if cfg.logger or not isinstance(each, LearningRateMonitor)]


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Build every entry of `logger` that has a `_target_`."""
    return [instantiate(node, _convert_="all") for node in object_nodes(cfg, "logger").values()]


def object_nodes(cfg: DictConfig, group: str) -> dict[str, DictConfig]:
    """Return the entries of a group that have a `_target_`."""
    return {str(name): node for name, node in (cfg[group] or {}).items() if node and "_target_" in node}


def build_trainer(cfg: DictConfig, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """Build the Lightning trainer of `trainer=`.

    Raises:
        UserError: its settings do not fit each other, this machine, or the processes SLURM started.
    """
    for key in ("callbacks", "logger"):
        if key in cfg.trainer:
            raise UserError(f"configuration `trainer.{key}`: the group sets it, {key}=null leaves it out")
    watched = any(isinstance(callback, L.pytorch.callbacks.ProgressBar) for callback in callbacks)
    options = {} if watched else {"enable_progress_bar": False}
    try:
        return instantiate(
            cfg.trainer, callbacks=callbacks, logger=loggers or False, _convert_="all", **options
        )
    except InstantiationException as error:
        if isinstance(
            error.__cause__, (MisconfigurationException, RuntimeError, ImportError, TypeError, ValueError)
        ):
            raise UserError(f"configuration `trainer`: {error.__cause__}") from None
        raise


def require_device(name: str | None) -> torch.device:
    """Return the device `name`; None: the GPU if there is one, else the CPU.

    Raises:
        UserError: torch does not know it or this machine does not have it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"device={name} cannot be used ({reason}): set cpu, or cuda on a GPU machine"
        ) from None
