"""Reduce a checkpoint to what inference needs: `python -m tools.small_checkpoint SOURCE TARGET`.

The decoder's weights in half precision, its configuration, and the metrics of its epoch; no state of the
training and no path. The detector is found beside the file. Made `ext_extractor/yolox_nano_person.pth`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from roiseg.common.files import atomic_path
from roiseg.common.outputs import never
from roiseg.inference.checkpoint import read_checkpoint

_DATA = ("category_id", "crowd", "min_roi_size", "metric_size")


def reduced(content: dict[str, Any]) -> dict[str, Any]:
    """Return the reduced content of a checkpoint."""
    metadata = content["roiseg"]
    config = metadata["config"]
    extractor = config["extractor"] | {
        "onnx_path": Path(config["extractor"]["onnx_path"]).name,
        "source": None,
    }
    kept = {
        "model": config["model"],
        "extractor": extractor,
        "data": {key: config["data"][key] for key in _DATA if key in config["data"]},
    }
    epochs = content["callbacks"].get("History", {"epochs": []})["epochs"]
    weights = {name: w.half() for name, w in content["state_dict"].items() if name.startswith("decoder.")}
    return {
        "epoch": content["epoch"],
        "state_dict": weights,
        "callbacks": {"History": {"epochs": epochs[-1:]}},
        "roiseg": metadata | {"config": kept},
    }


def main() -> None:
    """Write the reduced file; an existing one is not replaced."""
    source, target = sys.argv[1:]
    with atomic_path(target, never) as path:
        torch.save(reduced(read_checkpoint(source)), path)


if __name__ == "__main__":
    main()
