"""Outlines as LabelMe's json files."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import cv2

from roiseg.common.files import write_json
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.writers.writer import FileWriter

_VERSION = "5.5.0"  # of the format


class LabelmeWriter(FileWriter):
    """A json file an image, to be corrected by hand: a polygon a piece, pieces of one instance in one group.

    A polygon has no holes: they are filled; pieces of one or two pixels are left out. A point
    is the middle of a pixel at the edge (pixel i is i + 0.5, as LabelMe draws and reads it). The file names
    the image where it lies; a video's frame is put inside.

    Args:
        folder: where the files go.
        label: of all instances.
    """

    def __init__(self, folder: str = "labelme", label: str = "person") -> None:
        super().__init__(folder)
        self.label = label

    def write(self, folder: Path, result: ImageResult) -> None:
        """Write the image's json file; without shapes where nobody is."""
        path = folder / f"{result.frame.key}.json"
        image, name = None, f"{result.frame.key}.jpg"
        if result.frame.path is None:
            bgr = cv2.cvtColor(result.image, cv2.COLOR_RGB2BGR)
            image = base64.b64encode(cv2.imencode(".jpg", bgr)[1].tobytes()).decode("ascii")
        else:
            name = Path(os.path.relpath(result.frame.path, path.parent)).as_posix()
        height, width = result.prediction.size
        content = {"version": _VERSION, "flags": {}, "shapes": self._shapes(result), "imagePath": name}
        size = {"imageHeight": height, "imageWidth": width}
        write_json(path, {**content, "imageData": image, **size})

    def _shapes(self, result: ImageResult) -> list[dict[str, Any]]:
        return [
            {
                "label": self.label,
                "points": (piece + 0.5).tolist(),
                "group_id": number,
                "description": f"score {score:.3f}",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for number, (pieces, score) in enumerate(
                zip(result.prediction.to_polygons(), result.prediction.scores, strict=True), 1
            )
            for piece in pieces
        ]
