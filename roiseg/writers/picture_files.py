"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from roiseg.common.files import atomic_path


def write_rgb(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write RGB uint8 [H, W, 3] in the format of the path's suffix, whole or not at all."""
    _write(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def write_labels(path: Path, labels: NDArray[np.uint16]) -> None:
    """Write one channel uint16 [H, W] as PNG, whole or not at all."""
    _write(path, labels)


def _write(path: Path, content: np.ndarray) -> None:
    done, encoded = cv2.imencode(path.suffix, content)
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {content.shape} as {path.suffix}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
