"""Open the models of an evaluation, each with its data.

The test data of a checkpoint are choices of Hydra's groups: `data=checkpoint` and below. A checkpoint is not
trusted: the file may come from anywhere. Its data configuration may name files to read, numbers, and classes
of the one roiseg module that a node is meant for; nothing that writes, and nothing that calls other code.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError
from roiseg.common.files import as_utf8
from roiseg.common.precision import slow_on_cpu
from roiseg.config.build import given_decision, require_device, to_plain
from roiseg.config.private_api import parse_command_line
from roiseg.config.run_summary import parameter_counts
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.targets import TargetSpec
from roiseg.inference.checkpoint import SPLIT, TrainedModel, listed_paths, load_model, read_checkpoint
from roiseg.inference.model import MergedExtractor, OnnxModel, RoiModel, TorchModel
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.predictor import Predictor
from roiseg.inference.rebuild import locate

_FILES = ("data.val_annotations", "data.train_annotations")  # other files have no such split
_UNUSED = ("augment", "pool")  # of training; a test uses images unchanged


def register_checkpoint_data(arguments: Sequence[str]) -> None:
    """Register the data of the checkpoint on a command line with Hydra, before it composes.

    An exported file reads one view of unmodified features: `onnx=` disables test-time augmentation and the
    coding of the feature cache.

    Args:
        arguments: the command line; `ckpt=...` in it is the checkpoint. Without one, `data=checkpoint` is
            what all data sets share, without files.

    Raises:
        UserError: the checkpoint is missing, damaged or not trusted, or a member of an ensemble may know the
            images that are measured by default.
    """
    given = _values(arguments, ("ckpt", "onnx", "data", "data/folds", *_FILES))
    store = ConfigStore.instance()
    config, path = {}, Path()
    if given["ckpt"] is not None:
        path, *others = [Path(str(one)) for one in listed_paths(given["ckpt"])]
        config = read_checkpoint(path)["roiseg"]["config"]
        if all(given[key] is None for key in ("data", "data/folds", *_FILES)):
            _check_split(config, path, others)
    nodes = {}
    if all(given[key] is None for key in _FILES):
        nodes["folds"] = trusted_node(config, "data.folds", "roiseg.data.folds", path)
    tta = None
    if given["onnx"] is None:
        tta = trusted_node(config, "tta", "roiseg.data.tta", path)
        nodes["cache"] = _coding(config, path)
    store.store(group="tta", name="checkpoint", node={"tta": tta}, package="_global_")
    defaults: list[Any] = ["default", *({f"override {group}": None} for group in _UNUSED)]
    for group, node in nodes.items():
        if node is not None:
            store.store(group=f"data/{group}", name="checkpoint", node=node)
            defaults.append({f"override {group}": "checkpoint"})
    values = trusted_values(config, path)
    store.store(group="data", name="checkpoint", node={"defaults": defaults, **values})


def _check_split(config: dict[str, Any], path: Path, others: Sequence[Path]) -> None:
    """Check that the other members of an ensemble were trained on the same images as the first."""
    for other in others:
        theirs = read_checkpoint(other)["roiseg"]["config"].get("data") or {}
        for key in SPLIT:
            if theirs.get(key) != (known := (config.get("data") or {}).get(key)):
                raise UserError(
                    f"checkpoints {path} and {other} differ in data.{key} ({known}; {theirs.get(key)}): one "
                    "may know the images that the other is measured on; give other images, as "
                    "data.val_annotations=FILE data.val_images=DIR"
                )


def _coding(config: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Return an empty cache that codes features as in training, so that a test gives the same metrics."""
    codec = trusted_node(config, "data.cache.codec", "roiseg.extractor.cache.codec", path)
    memory = "roiseg.extractor.cache.memory.MemoryCache"
    return None if codec is None else {"_target_": memory, "codec": codec, "budget_gb": 1e-9}


def _values(arguments: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values that a command line gives to some keys; None for the others."""
    words = parse_command_line(arguments).overrides
    found: dict[str, Any] = dict.fromkeys(keys)
    for override in OverridesParser.create().parse_overrides([word for word in words if "=" in word]):
        if override.key_or_group in found:
            if override.is_sweep_override():
                raise UserError(
                    f"{override.key_or_group}: give one file and run the command once for each; an ensemble "
                    "is a list, 'ckpt=[A,B]'"
                )
            found[override.key_or_group] = override.value()
    return found


_VALUES = (
    "train_annotations", "train_images", "val_annotations", "val_images", "category_id", "crowd",
    "min_roi_size", "metric_size", "val_batch_size",
)  # fmt: skip


def trusted_values(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the files and numbers of the data set, as options of `data`.

    Args:
        config: the checkpoint's configuration.
        path: the checkpoint, for messages.

    Raises:
        UserError: a value is not trusted.
    """
    data = config.get("data") or {}
    return {key: _checked(data[key], f"data.{key}", path, ()) for key in _VALUES if key in data}


def trusted_node(config: dict[str, Any], key: str, module: str, path: Path) -> dict[str, Any] | None:
    """Return a node of the configuration; None if it is missing.

    Args:
        key: dotted key, such as `data.folds`.
        module: the only module whose classes it may use, such as `roiseg.data.folds`.

    Raises:
        UserError: a value is not trusted.
    """
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    checked = _checked(node, key, path, (module,))
    if not checked:
        return None
    if not isinstance(checked, dict) or "_target_" not in checked:
        raise UserError(
            f"checkpoint {path}: `{key}` in its configuration is not a node that a training writes"
        )
    return checked


def _checked(node: Any, key: str, path: Path, trusted: tuple[str, ...]) -> Any:
    """Return a copy of `node` without interpolations and with trusted classes only."""
    if isinstance(node, dict):
        if "_target_" in node:
            locate(str(node["_target_"]), trusted)
        if special := [name for name in node if name != "_target_" and not str(name)[:1].isalpha()]:
            raise UserError(f"checkpoint {path}: `{key}.{special[0]}` in its configuration is not trusted")
        return {str(name): _checked(value, f"{key}.{name}", path, trusted) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_checked(value, key, path, trusted) for value in node]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"checkpoint {path}: `{key}` in its configuration, {node!r}, is not trusted")
    return node


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
        """Return a predictor of the boxes above a score, with the data's test-time augmentation.

        Raises:
            UserError: no postprocessor for the detector's boxes is configured.
        """
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
        files = [self.model.path] if self.trained is None else self.trained.paths
        return {"file": ", ".join(map(str, files)), **epoch, "arithmetic": self.model.precision}

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
            "extractor_sha256": self.trained.extractor_sha256,
            "parameters": parameter_counts(self.trained.decoder),
            "seconds": round(seconds, 1),
            "seed": self.trained.config.get("seed"),
            "choices": {},
            "overrides": [],
        }


def open_models(cfg: DictConfig) -> dict[str, Evaluated]:
    """Open the checkpoint and the exported file of `ckpt=` and `onnx=`, by kind.

    Raises:
        UserError: a file that cannot be used, or data that cannot be read.
    """
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
        if model.device.type == "cpu" and (slow := slow_on_cpu(precision, "precision")):
            log.warning("%s", slow)
    if file is not None:  # opened before the data, which leave an index behind
        exported = OnnxModel(file, file.extractor(_detector_file(cfg, file, trained), adapter))
    if trained is not None:
        own_grid = trained.decoder.output_size if trained.decoder.frame == "roi" else None
        models["checkpoint"] = Evaluated(model, _data(cfg, model, own_grid, model.device), trained)
    if file is not None:
        models["onnx"] = Evaluated(exported, _data(cfg, exported, None, torch.device("cpu")))
        origin = file.metadata.get("checkpoint")
        if trained is not None and origin != as_utf8(trained.name):
            log.warning("%s was exported from %s, not from %s", file.path, origin, trained.name)
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
