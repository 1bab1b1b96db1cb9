"""COCO results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import Write, Writer, json_list

RESULTS, IMAGES = "coco_results.json", "coco_images.json"


class CocoWriter(Writer):
    """COCO results json (`COCO.loadRes` reads it), masks as RLE, and the images that its ids mean.

    An image's id is the one of the boxes' COCO file, where boxes come from one; else the number that its
    file name is (000000000139.jpg is 139), where every name of the source is one; else its place, from 1.

    Args:
        category_id: of all results; None: that of the model.
    """

    def __init__(self, category_id: int | None = None) -> None:
        self.category_id = category_id

    def place(self, source: Source) -> str:
        """The results."""
        return RESULTS

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """Both files are written as results come."""
        with json_list(folder / RESULTS) as add_result, json_list(folder / IMAGES) as add_image:

            def write(result: ImageResult) -> None:
                height, width = result.prediction.size
                name = result.frame.name
                add_image({"id": result.image_id, "file_name": name, "width": width, "height": height})
                for record in result.prediction.to_coco(result.image_id, self.category_id):
                    add_result(record)

            yield write
