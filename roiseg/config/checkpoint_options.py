"""Register the test data of a checkpoint as choices of Hydra's groups: `data=checkpoint` and below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from roiseg.common.errors import UserError
from roiseg.config.private_api import parse_command_line
from roiseg.evaluation.checkpoint_data import trusted_node, trusted_values
from roiseg.inference.checkpoint import read_checkpoint

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
        UserError: the checkpoint is missing, damaged or not trusted, or several are given.
    """
    given = _values(arguments, ("ckpt", "onnx", *_FILES))
    store = ConfigStore.instance()
    config, path = {}, Path()
    if given["ckpt"] is not None:
        path = Path(str(given["ckpt"]))
        config = read_checkpoint(path)["roiseg"]["config"]
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
                raise UserError(f"{override.key_or_group}: give one file; run the command once for each")
            found[override.key_or_group] = override.value()
    return found
