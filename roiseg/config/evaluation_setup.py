"""Open the models of an evaluation, each with its data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError
from roiseg.common.files import as_utf8
from roiseg.config.build import given_decision, require_device, to_plain
from roiseg.config.run_summary import parameter_counts
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.targets import TargetSpec
from roiseg.inference.checkpoint import TrainedModel, load_model
from roiseg.inference.model import MergedExtractor, OnnxModel, RoiModel, TorchModel
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.predictor import Predictor

log = logging.getLogger(__name__)

_SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # Lightning's other names


@dataclass(frozen=True)
class Evaluated:
    """A model and the data it is measured on."""

    model: RoiModel
    data: RoiDataModule  # with three classes, also for a model with two
    trained: TrainedModel | None = None  # the checkpoint, if it is one

    @property
    def config(self) -> dict[str, Any] | None:
        """Return the training configuration; None for an exported file."""
        return None if self.trained is None else self.trained.config

    def predictor(self, min_score: float) -> Predictor:
        """Return a predictor of the boxes above a score, with the data's test-time augmentation."""
        extractor = self.model.extractor
        if extractor is None:
            raise UserError(
                f"boxes=detector: {self.model.path} contains the detector: give it as onnx_path, too"
            )
        if extractor.postprocess is None:
            raise UserError(
                f"boxes=detector: no postprocessor is set for {extractor.onnx_path}: "
                "set postprocess=yolox, yolo or rows"
            )
        extractor.postprocess.score_threshold = min_score
        return Predictor(self.model, self.data.tta)

    def summary(self) -> dict[str, Any]:
        """Describe the model for JSON."""
        epoch = {} if self.trained is None else {"epoch": self.trained.epoch}
        return {"file": str(self.model.path), **epoch, "arithmetic": self.model.precision}

    def data_summary(self) -> dict[str, Any]:
        """Describe the data for JSON."""
        dataset, data = self.data.dataset("val"), self.data
        annotations = [data.paths[split][0] for split in (("train", "val") if data.folds else ("val",))]
        return {
            "annotations": annotations,
            "fold": data.folds.name if data.folds else None,
            "images": len(dataset),
            "rois": dataset.num_rois,
            "tta": None if data.tta is None else vars(data.tta),
        }

    def run_summary(self, test: dict[str, float], seconds: float) -> dict[str, Any]:
        """Return the part of a run's `summary.json` that `python -m roiseg.report` reads."""
        assert self.trained is not None
        dataset = self.data.dataset("val")
        return {
            "test": test,
            "data": {"val_images": len(dataset), "val_rois": dataset.num_rois},
            "parameters": parameter_counts(self.trained.decoder),
            "seconds": round(seconds, 1),
            "seed": self.trained.config.get("seed"),
            "choices": {},
            "overrides": [],
        }


def open_models(cfg: DictConfig) -> dict[str, Evaluated]:
    """Open the checkpoint and the exported file of `ckpt=` and `onnx=`, by kind."""
    models: dict[str, Evaluated] = {}
    file = None if cfg.onnx is None else OnnxFile(cfg.onnx)
    if file is not None and file.finds_boxes:
        raise UserError(f"onnx: {file.path} finds the boxes itself: evaluate a file without boxes=true")
    adapter = None if cfg.postprocess is None else to_plain(cfg)["postprocess"]
    trained = None if cfg.ckpt is None else load_model(cfg.ckpt)
    if trained is not None:
        extractor = trained.extractor(cfg.onnx_path, adapter)
        extractor.projection = trained.decoder.projection  # for the cache
        precision = cfg.precision or _precision(cfg, trained)
        model = TorchModel(trained, extractor, require_device(cfg.device), precision, given_decision(cfg))
    if file is not None:  # opened before the data, which leave an index behind
        exported = OnnxModel(file, file.extractor(_detector_file(cfg, file, trained), adapter))
    if trained is not None:
        own_grid = trained.decoder.output_size if trained.decoder.frame == "roi" else None
        models["checkpoint"] = Evaluated(model, _data(cfg, model, own_grid, model.device), trained)
    if file is not None:
        models["onnx"] = Evaluated(exported, _data(cfg, exported, None, torch.device("cpu")))
        origin = file.metadata.get("checkpoint")
        if trained is not None and origin != as_utf8(trained.path.name):
            log.warning("%s was exported from %s, not from %s", file.path, origin, trained.path)
    return models


def _precision(cfg: DictConfig, trained: TrainedModel) -> str:
    """Return the precision of the checkpoint's own test, if that test is repeated."""
    repeats_test = cfg.onnx is None and cfg.boxes == "annotations"
    known = (trained.config.get("trainer") or {}).get("precision") if repeats_test else None
    return "32-true" if known is None else _SHORT.get(str(known), str(known))


def _detector_file(cfg: DictConfig, file: OnnxFile, trained: TrainedModel | None) -> str | None:
    """Return the detector's path if the exported file or the options need it."""
    if cfg.onnx_path is not None or trained is None or (file.merged and cfg.boxes == "annotations"):
        return cfg.onnx_path
    return trained.detector_path


def _data(
    cfg: DictConfig, model: RoiModel, own_grid: tuple[int, int] | None, device: torch.device
) -> RoiDataModule:
    """Build and check the data module of `data=` for a model; `own_grid` is the fallback metric grid."""
    size = cfg.data.metric_size or own_grid
    if size is None:
        raise UserError("data.metric_size must be [h, w]: an exported file has no grid of its own")
    spec = TargetSpec("roi", (int(size[0]), int(size[1])), 3, model.image_size)
    make = instantiate(cfg.data, _partial_=True, _convert_="all")
    extractor = model.extractor or MergedExtractor(model.preprocess)
    data: RoiDataModule = make(extractor=extractor, spec=spec, needs_images=True)
    data.device = device
    data.prepare_data()
    data.setup("test")
    return data
