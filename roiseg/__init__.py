"""roiseg: instance masks from a frozen ONNX detector, by a small decoder trained on its features."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roiseg.data.images import read_image
    from roiseg.inference.prediction import Prediction
    from roiseg.inference.predictor import Predictor

# Before ONNX Runtime is imported: from 1.31 on it would note how it is used in a data base in ~/.cache, one
# for all processes, and send that to its makers, from threads of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Prediction", "Predictor", "read_image"]
__version__ = "0.1.0"

_HOMES = {
    "Prediction": "roiseg.inference.prediction",
    "Predictor": "roiseg.inference.predictor",
    "read_image": "roiseg.data.images",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for: commands that need none start faster."""
    if name not in _HOMES:
        raise AttributeError(f"module 'roiseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
