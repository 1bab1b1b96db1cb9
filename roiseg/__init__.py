"""roiseg: instance masks from a frozen ONNX detector, by a small decoder trained on its features."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roiseg.data.images import read_image
    from roiseg.inference.prediction import Prediction
    from roiseg.inference.predictor import Predictor

# Set before ONNX Runtime is imported: since 1.31 it records its use in a database in ~/.cache, shared by all
# processes, and sends it to its vendor from background threads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Prediction", "Predictor", "read_image"]
__version__ = "0.2.0"

_MODULES = {
    "Prediction": "roiseg.inference.prediction",
    "Predictor": "roiseg.inference.predictor",
    "read_image": "roiseg.data.images",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that commands that do not need it start faster."""
    if name not in _MODULES:
        raise AttributeError(f"module 'roiseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
