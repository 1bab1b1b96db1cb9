"""Store an executed notebook in the repository: `python -m tools.notebook_outputs EXECUTED NOTEBOOK`.

`python ../tests/notebooks/execute.py NOTEBOOK EXECUTED`, in `notebooks/`, executes it. Pictures become JPEG
files of at most 900 pixels in width, and paths relative to the checkout.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import cv2
import nbformat
import numpy as np

_WIDEST = 900
_KEPT = ("text/plain", "text/html", "text/markdown", "image/jpeg")
_ROOT = Path(__file__).resolve().parents[1]


def smaller(png: str) -> str:
    """Return a PNG as a JPEG of at most `_WIDEST` pixels in width, both as base64."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    scale = min(1.0, _WIDEST / image.shape[1])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]).decode()


def main() -> None:
    """Write the notebook."""
    executed, target = sys.argv[1:]
    notebook = nbformat.read(executed, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if "text" in output:
            output.text = output.text.replace(f"{_ROOT}/", "")
        if data := output.get("data"):
            if png := data.pop("image/png", None):
                data["image/jpeg"] = smaller(png)
            output.data = {
                name: text.replace(f"{_ROOT}/", "") for name, text in data.items() if name in _KEPT
            }
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main()
