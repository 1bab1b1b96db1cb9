"""Write outlines as LabelMe json files."""

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
    """One json file per image, for manual correction: a polygon per part, a group per instance.

    Holes are filled; parts of one or two pixels are left out. A point is the centre of a border pixel
    (pixel i is i + 0.5, as in LabelMe). The file refers to the image by path; a video's
    frame is embedded.

    Args:
        folder: of the files.
        label: of all instances.
    """

    def __init__(self, folder: str = "labelme", label: str = "person") -> None:
        super().__init__(folder)
        self.label = label

    def write(self, folder: Path, result: ImageResult) -> None:
        """See `FileWriter`."""
        path = folder / f"{result.source_image.key}.json"
        image, name = None, f"{result.source_image.key}.jpg"
        if result.source_image.path is None:
            bgr = cv2.cvtColor(result.image, cv2.COLOR_RGB2BGR)
            image = base64.b64encode(cv2.imencode(".jpg", bgr)[1].tobytes()).decode("ascii")
        else:
            name = Path(os.path.relpath(result.source_image.path, path.parent)).as_posix()
        height, width = result.prediction.size
        content = {"version": _VERSION, "flags": {}, "shapes": self._shapes(result), "imagePath": name}
        size = {"imageHeight": height, "imageWidth": width}
        write_json(path, {**content, "imageData": image, **size})

    def _shapes(self, result: ImageResult) -> list[dict[str, Any]]:
        return [
            {
                "label": self.label,
                "points": (part + 0.5).tolist(),
                "group_id": number,
                "description": f"score {score:.3f}",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for number, (parts, score) in enumerate(
                zip(result.prediction.to_polygons(), result.prediction.scores, strict=True), 1
            )
            for part in parts
        ]
