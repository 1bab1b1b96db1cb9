"""Checkpoint files: their metadata, reading them safely, and building their decoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import roiseg
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, home_path
from roiseg.decoders.base import Decoder
from roiseg.decoders.ensemble import EnsembleDecoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.projection import Projection
from roiseg.inference.checkpoint_folder import checkpoint_file
from roiseg.inference.decision import Decision, Threshold
from roiseg.inference.rebuild import rebuild_as
from roiseg.metrics.registry import labels

log = logging.getLogger(__name__)

Paths = str | Path | Sequence[str | Path]  # of a checkpoint, or of several: an ensemble

FORMAT = 2  # raised whenever older checkpoints no longer load
SPLIT = ("folds", "train_annotations", "val_annotations")  # keys of `data` that decide who trains on what
_KEYS = {"config", "layers", "shapes", "strides", "image_size", "extractor_sha256"}


def checkpoint_metadata(
    config: dict[str, Any], extractor: OnnxExtractor, decision: Decision | None = None
) -> dict[str, Any]:
    """Return the metadata of a checkpoint: plain values from which inference rebuilds the model.

    Args:
        config: the run's resolved configuration, as plain dicts and lists.
        extractor: the run's extractor.
        decision: how masks follow from probabilities; None: a threshold of 0.5.
    """
    detector = str(Path(extractor.onnx_path).absolute())  # inference may have another working directory
    return {
        "format": FORMAT,
        "version": roiseg.__version__,
        "config": {**config, "extractor": {**config["extractor"], "onnx_path": detector}},
        "layers": list(extractor.layers),
        "shapes": [list(shape) for shape in extractor.tensor_shapes],
        "strides": list(extractor.strides),
        "image_size": list(extractor.preprocess.image_size),
        "extractor_sha256": extractor.digest,
        "decision": (decision or Threshold()).node(),
    }


@dataclass(frozen=True)
class TrainedModel:
    """A decoder from a checkpoint, or the ensemble of several, with its metadata."""

    path: Path  # of an ensemble: the first
    decoder: Decoder
    config: dict[str, Any]
    layers: Sequence[str]
    shapes: Sequence[tuple[int, int, int]]  # (C, H, W) of each layer
    image_size: tuple[int, int]  # (H, W) of the extractor's input
    extractor_sha256: str
    epoch: int  # 1-based
    decision: Decision = field(default_factory=Threshold)
    metrics: Mapping[str, float] = field(default_factory=dict)  # of this epoch, as logged; empty if unknown
    others: Sequence[Path] = ()  # of an ensemble: the paths after the first

    @property
    def paths(self) -> list[Path]:
        """Return the paths of all checkpoints."""
        return [self.path, *self.others]

    @property
    def name(self) -> str:
        """Return the file names of all checkpoints."""
        return ", ".join(path.name for path in self.paths)

    @property
    def validation(self) -> str:
        """Return the validation IoU of this epoch with its label; empty if unknown."""
        name = "val/instance_iou" if "val/instance_iou" in self.metrics else "val/miou"
        known = 0 <= self.metrics.get(name, -1) <= 1
        return f"{labels('val')[name]} {self.metrics[name]:.2f}" if known else ""

    @property
    def summary(self) -> str:
        """Return decoder, epoch and validation IoU, such as "pyramid, epoch 160, instance IoU 0.75"."""
        decoder = type(self.decoder).__module__.rsplit(".", 1)[-1]
        return ", ".join(filter(None, (decoder, f"epoch {self.epoch}", self.validation)))

    @property
    def category_id(self) -> int:
        """Return the COCO category that it was trained on; 1 if unknown."""
        return checked_category((self.config.get("data") or {}).get("category_id", 1), self.path)

    @property
    def detector_path(self) -> str:
        """Return the detector's path in training, or the file of that name beside the checkpoint."""
        trained = Path(str(self.config["extractor"].get("onnx_path")))
        beside = self.path.parent / trained.name
        return str(beside if beside.is_file() and not trained.is_file() else trained)

    def with_postprocess(self, postprocess: dict[str, Any]) -> TrainedModel:
        """Return the model with another `extractor.postprocess`."""
        extractor = {**self.config["extractor"], "postprocess": postprocess}
        return replace(self, config={**self.config, "extractor": extractor})

    def extractor(
        self, onnx_path: str | None = None, postprocess: dict[str, Any] | None = None
    ) -> OnnxExtractor:
        """Open the extractor that the decoder was trained on.

        Args:
            onnx_path: path of the detector; None: see `detector_path`.
            postprocess: configuration that reads the detector's boxes; None: the one in training.

        Raises:
            UserError: it cannot be opened, or it is not the file used in training.
        """
        # inference does not create the detector, and the decoder projects its features
        node = {**self.config["extractor"], "source": None, "project": None}
        node["onnx_path"] = onnx_path or self.detector_path
        if postprocess is not None:
            node["postprocess"] = postprocess
        if not Path(node["onnx_path"]).is_file():
            raise UserError(
                f"checkpoint {self.path}: its detector {node['onnx_path']} is missing: copy it beside the "
                "checkpoint, or give its path as onnx_path=FILE"
            )
        try:
            extractor = rebuild_as(OnnxExtractor, node)
        except UserError as error:
            raise UserError(f"checkpoint {self.path}: {error}") from None
        check_same_file(extractor, self.extractor_sha256, self.path)
        return extractor


def checked_category(value: Any, path: Path) -> int:
    """Return a category read from a file.

    Raises:
        UserError: it is not an integer.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{path} has an invalid data.category_id, {value!r}: use another file")
    return value


def check_same_file(extractor: OnnxExtractor, sha256: str, path: Path) -> None:
    """Check that an extractor is the one that the model at `path` was trained on.

    Raises:
        UserError: it is another file.
    """
    if extractor.digest != sha256:
        raise UserError(
            f"extractor {extractor.onnx_path} is not the file {path} was trained on "
            "(its SHA-256 differs): give that one as onnx_path"
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint without executing anything in it.

    Args:
        path: a file, or a folder, see `checkpoint_file`.

    Raises:
        UserError: missing, damaged, or not written by roiseg.
    """
    path = checkpoint_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file raises almost any error, from struct.error to AssertionError
        raise UserError(
            f"checkpoint {path} is damaged or contains more than weights and plain values: use another one"
        ) from None
    metadata = content.get("roiseg") if isinstance(content, dict) else None
    if not isinstance(metadata, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"checkpoint {path} was not written by `python -m roiseg.train`: use one that was")
    if metadata.get("format") != FORMAT:
        raise UserError(_other_format(path, metadata.get("format")))
    missing = sorted((_KEYS - metadata.keys()) | ({"epoch"} - content.keys()))
    if missing:
        raise UserError(f"checkpoint {path} is incomplete (without {', '.join(missing)}): use another one")
    wrong = _invalid_entry({**metadata, **{key: content.get(key) for key in ("epoch", "in_epoch")}})
    if wrong is not None:
        raise UserError(f"checkpoint {path} has an invalid `{wrong}`: use another one")
    return content


def _other_format(path: Path, found: Any) -> str:
    if found == 1:
        return f"checkpoint {path} was written by roiseg before 0.2: train again or use 0.1"
    return f"checkpoint {path} has format {found}, this version of roiseg reads {FORMAT}"


def _invalid_entry(metadata: dict[str, Any]) -> str | None:
    """Return the first invalid entry of complete metadata, or None."""
    config, layers, shapes = (metadata[key] for key in ("config", "layers", "shapes"))
    sound = {
        "epoch": isinstance(metadata["epoch"], int) and metadata["epoch"] >= 0,
        "in_epoch": metadata["in_epoch"] is None or _is_in_epoch_state(metadata["in_epoch"]),
        "config": isinstance(config, dict)
        and all(
            isinstance(config.get(part), dict) and "_target_" in config[part]
            for part in ("model", "extractor")
        ),
        "layers": isinstance(layers, list) and bool(layers) and all(isinstance(name, str) for name in layers),
        "shapes": isinstance(shapes, list) and all(_are_sizes(shape, 3) for shape in shapes),
        "strides": isinstance(layers, list) and _are_sizes(metadata["strides"], len(layers)),
        "image_size": _are_sizes(metadata["image_size"], 2),
        "extractor_sha256": isinstance(metadata["extractor_sha256"], str),
    }
    if all(sound.values()):  # do metadata and configuration agree?
        extractor, stated = config["extractor"], metadata["image_size"]
        preprocess = extractor.get("preprocess")
        size = preprocess.get("image_size", stated) if isinstance(preprocess, dict) else stated
        sound["shapes"] = len(shapes) == len(layers)
        sound["layers"] = [str(name) for name in _listed(extractor.get("layers", layers))] == layers
        sound["image_size"] = size == list(stated)
        sound["config"] = extractor.get("project") is None or _are_sizes([extractor["project"]], 1)
    return next((key for key, valid in sound.items() if not valid), None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _are_sizes(value: Any, count: int) -> bool:
    whole = isinstance(value, (list, tuple)) and all(isinstance(size, int) for size in value)
    return whole and len(value) == count and min(value, default=0) > 0


def _is_in_epoch_state(value: Any) -> bool:
    """Return whether a value is the state of a checkpoint within an epoch."""
    if not isinstance(value, dict) or not _are_sizes([value.get("batches"), value.get("steps")], 2):
        return False
    return value["batches"] < value["steps"] and isinstance(value.get("losses"), dict)


def listed_paths(paths: Paths) -> list[str | Path]:
    """Return a list of one or more paths of checkpoints.

    Raises:
        UserError: it is empty.
    """
    found = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not found:
        raise UserError("ckpt is an empty list: give a checkpoint, or several for an ensemble")
    return found


def load_model(paths: Paths) -> TrainedModel:
    """Build the decoder of a checkpoint, in evaluation mode on the CPU; of several, their ensemble.

    An ensemble has detector, data and decision of the first checkpoint.

    Args:
        paths: files, or folders, see `checkpoint_file`.

    Raises:
        UserError: see `read_checkpoint`; also if weights and configuration do not match, or the members of an
            ensemble read different features or segment different classes.
    """
    first, *others = models = [_load(path) for path in listed_paths(paths)]
    if not others:
        return first
    for model in others:
        for what, value in _facts(model).items():
            if value != (known := _facts(first)[what]):
                raise UserError(
                    f"checkpoints {first.path} and {model.path} cannot be an ensemble: {what} is {known} in "
                    f"the first and {value} in the second"
                )
    members = [model.config["model"] for model in models]
    seeds = list(dict.fromkeys(model.config.get("seed") for model in models))
    config = {
        **first.config,
        "model": {"_target_": "roiseg.decoders.ensemble.EnsembleDecoder", "members": members},
        "seed": seeds if len(seeds) > 1 else seeds[0],
    }
    return replace(
        first,
        decoder=EnsembleDecoder([model.decoder for model in models]).eval(),
        config=config,
        epoch=max(model.epoch for model in models),
        metrics={},
        others=[model.path for model in others],
    )


def _facts(model: TrainedModel) -> dict[str, Any]:
    """Return what the members of an ensemble have in common, by the name of a message."""
    return {
        "the detector's SHA-256": model.extractor_sha256[:12],
        "extractor.layers": list(model.layers),
        "extractor.preprocess": model.config["extractor"].get("preprocess"),
        "the size of the input": list(model.image_size),
        "data.category_id": model.category_id,
        "model.num_classes": model.decoder.num_classes,
        "model.frame": model.decoder.frame,
    }


def _load(path: str | Path) -> TrainedModel:
    given, path = home_path(path), checkpoint_file(path)
    if path != given:
        log.info("checkpoint %s: %s", given, path)
    content = read_checkpoint(path)
    metadata = content["roiseg"]
    shapes = [(int(c), int(h), int(w)) for c, h, w in metadata["shapes"]]
    channels, size = [shape[0] for shape in shapes], metadata["config"]["extractor"].get("project")
    try:
        decoder: Decoder = rebuild_as(
            Decoder,  # type: ignore[type-abstract]
            metadata["config"]["model"],
            in_channels=tuple(min(count, size or count) for count in channels),
            strides=tuple(metadata["strides"]),
            image_size=tuple(metadata["image_size"]),
        )
    except (UserError, TypeError, ValueError, RuntimeError) as error:  # for example options of another type
        raise UserError(f"checkpoint {path}: its model cannot be built ({error})") from error
    if size is not None:
        decoder.projection = Projection(channels, size)
    prefix = "decoder."
    weights = {k[len(prefix) :]: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    try:
        decoder.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint {path}: its weights do not fit its own configuration ({reason})"
        ) from None
    if lost := [name for name, weight in decoder.state_dict().items() if not weight.isfinite().all()]:
        raise UserError(f"checkpoint {path}: weight `{lost[0]}` is nan or infinite: use an earlier one")
    height, width = metadata["image_size"]
    return TrainedModel(
        path=path,
        decoder=decoder.eval(),
        config=metadata["config"],
        layers=metadata["layers"],
        shapes=shapes,
        image_size=(int(height), int(width)),
        extractor_sha256=metadata["extractor_sha256"],
        epoch=int(content["epoch"]) + 1,
        decision=_decision(metadata, path),
        metrics=_metrics(content),
    )


def _metrics(content: dict[str, Any]) -> dict[str, float]:
    """Return what a checkpoint's epoch logged; empty if it is not known."""
    try:
        last = content["callbacks"]["History"]["epochs"][-1]
        numbers = {str(name): float(value) for name, value in last.items() if math.isfinite(value)}
        return numbers if numbers.pop("epoch") == content["epoch"] + 1 else {}
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return {}


def _decision(metadata: dict[str, Any], path: str | Path) -> Decision:
    try:
        return rebuild_as(Decision, metadata.get("decision", Threshold().node()))  # type: ignore[type-abstract]
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} has an invalid `decision` ({error}): use another one") from None


def write_decision(path: Path, decision: Decision) -> None:
    """Replace the decision of a checkpoint."""
    content = read_checkpoint(path)
    content["roiseg"]["decision"] = decision.node()
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
