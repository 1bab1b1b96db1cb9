"""Write COCO results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import Write, Writer, json_list

RESULTS, IMAGES = "coco_results.json", "coco_images.json"


class CocoWriter(Writer):
    """COCO results json (for `COCO.loadRes`), masks as RLE, and a json with the images of its ids.

    An image's id comes from the COCO file of boxes if there is one; else from its file name if all are
    numbers (000000000139.jpg is 139); else it is its place, from 1.

    Args:
        category_id: of all results; None: the model's.
    """

    def __init__(self, category_id: int | None = None) -> None:
        self.category_id = category_id

    def place(self, source: Source) -> str:
        """See `Writer`."""
        return RESULTS

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """See `Writer`."""
        with json_list(folder / RESULTS) as add_result, json_list(folder / IMAGES) as add_image:

            def write(result: ImageResult) -> None:
                height, width = result.prediction.size
                name = result.source_image.name
                add_image({"id": result.image_id, "file_name": name, "width": width, "height": height})
                for record in result.prediction.to_coco(result.image_id, self.category_id):
                    add_result(record)

            yield write
