"""Write a crop per instance, for classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import Window
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import Write, Writer, json_list, numbered
from roiseg.visualize.canvas import write_image


class CropsWriter(Writer):
    """Boxes enlarged about their centre, as PNG, and `crops.json` with boxes and labels.

    Args:
        folder: of the crops and the json.
        ratio: side of the crop relative to the box.
        min_size: minimum side in pixels, if the image is that large.
        label: of all instances.
    """

    def __init__(
        self,
        folder: str = "crops",
        ratio: Annotated[float, Field(ge=1)] = 1.2,
        min_size: PositiveInt = 16,
        label: str = "person",
    ) -> None:
        self.folder = folder
        self.ratio = ratio
        self.min_size = min_size
        self.label = label

    def place(self, source: Source) -> str:
        """See `Writer`."""
        return f"{self.folder}/crops.json"

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """See `Writer`."""
        target = folder / self.folder
        with json_list(folder / self.place(source)) as add:

            def write(result: ImageResult) -> None:
                for index, box in enumerate(result.prediction.boxes):
                    window = x1, y1, x2, y2 = expand_box(
                        box, self.ratio, self.min_size, result.prediction.size
                    )
                    if x2 > x1 and y2 > y1:
                        file = numbered(result.source_image.key, index + 1, ".png")
                        write_image(target / file, result.image[y1:y2, x1:x2])
                        add(self._record(result, index, file, window))

            yield write

    def _record(self, result: ImageResult, index: int, file: str, window: Window) -> dict[str, Any]:
        box = result.prediction.boxes[index].astype(float)
        return {
            "file": file,
            "label": self.label,
            "score": round(float(result.prediction.scores[index]), 5),
            "mask_score": round(float(result.prediction.mask_scores[index]), 5),
            "image": result.source_image.name,
            "image_id": result.image_id,
            "instance": index + 1,
            "box": box.round(2).tolist(),
            "crop": list(window),
            "box_in_crop": (box - np.tile(window[:2], 2)).round(2).tolist(),
        }


def expand_box(box: Boxes, ratio: float, min_size: int, size: tuple[int, int]) -> Window:
    """Enlarge a box about its centre; return integer x1, y1, x2, y2 within the image.

    A shorter side is extended to `min_size`; at the image's border the crop moves inwards to keep it.
    Empty for a box outside the image.

    Args:
        box: [4] x1, y1, x2, y2 in pixels.
        ratio: side relative to the box.
        min_size: minimum side in pixels.
        size: (H, W) of the image.
    """
    (x1, x2), (y1, y2) = (
        _side(float(box[axis]), float(box[axis + 2]), ratio, min_size, length)
        for axis, length in enumerate((size[1], size[0]))
    )
    return x1, y1, x2, y2


def _side(low: float, high: float, ratio: float, min_size: int, length: int) -> tuple[int, int]:
    if low >= length or high <= 0:
        return 0, 0
    middle, half = (low + high) / 2, (high - low) * ratio / 2
    first, last = max(math.floor(middle - half), 0), min(math.ceil(middle + half), length)
    if last - first < min_size:
        first = min(max(round((first + last - min_size) / 2), 0), max(length - min_size, 0))
        last = min(first + min_size, length)
    return first, last
