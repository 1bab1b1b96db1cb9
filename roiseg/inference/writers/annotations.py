"""Write results as annotation files: COCO results, LabelMe json, YOLO segmentation text."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.common.files import atomic_path, open_text, write_json
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import FileWriter, Write, Writer, json_items, json_list

RESULTS, IMAGES, ANNOTATIONS = "coco_results.json", "coco_images.json", "coco_annotations.json"


class CocoWriter(Writer):
    """COCO results json (for `COCO.loadRes`), masks as RLE; a json with the images of its ids; both as one.

    The last is COCO instances json, which annotation tools read and `data.extra_annotations` trains on. It
    lacks instances with an empty mask.

    An image's id comes from the COCO file of boxes if there is one; else from its file name if all are
    numbers (000000000139.jpg is 139); else it is its place, from 1.

    Args:
        category_id: of all results; None: the model's.
        label: its name.
    """

    def __init__(self, category_id: int | None = None, label: str = "person") -> None:
        self.category_id = category_id
        self.label = label

    def place(self, source: Source) -> str:
        """See `Writer`."""
        return RESULTS

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """See `Writer`."""
        ids = itertools.count(1)
        categories: set[int] = set()
        with atomic_path(folder / ANNOTATIONS) as temporary, open_text(temporary) as stream:
            stream.write('{"annotations": ')
            with (
                json_items(stream) as add_annotation,
                json_list(folder / RESULTS) as add_result,
                json_list(folder / IMAGES) as add_image,
            ):

                def write(result: ImageResult) -> None:
                    height, width = result.prediction.size
                    name = result.source_image.name
                    add_image({"id": result.image_id, "file_name": name, "width": width, "height": height})
                    for record in result.prediction.to_coco(result.image_id, self.category_id):
                        add_result(record)
                        categories.add(record["category_id"])
                        if area := int(coco_mask.area(record["segmentation"])):
                            add_annotation({"id": next(ids), **record, "area": area, "iscrowd": 0})

                yield write
            names = [{"id": number, "name": self.label} for number in sorted(categories)]
            stream.write(f',\n"categories": {json.dumps(names, ensure_ascii=False)},\n"images": ')
            with (folder / IMAGES).open(encoding="utf-8", newline="") as images:
                shutil.copyfileobj(images, stream)
            stream.write("}\n")


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
        found = result.prediction
        return [
            {
                "label": self.label,
                "points": (part + 0.5).tolist(),
                "group_id": number,
                "description": f"score {score:.3f}, mask score {found.mask_scores[number - 1]:.3f}",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for number, (parts, score) in enumerate(zip(found.to_polygons(), found.scores, strict=True), 1)
            for part in parts
        ]


def join_outlines(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join outlines into one by bridges of zero width, which keep the area.

    Each part is connected by the shortest bridge to those before it. A rasteriser that draws the outline
    also draws the bridges, one pixel wide.

    Args:
        parts: at least one [P, 2].

    Returns:
        [Q, 2].
    """
    outline = parts[0]
    for part in parts[1:]:
        distances = ((outline[:, None] - part[None]) ** 2).sum(-1)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        around = np.concatenate([part[there:], part[: there + 1]])
        outline = np.concatenate([outline[: here + 1], around, outline[here:]])
    return outline


class YoloSegWriter(FileWriter):
    """One text file per image, one line per instance: `class x y x y ...`, fractions (0..1) of the image.

    The format has one outline per instance: parts are joined by bridges of zero width, holes are filled,
    parts of one or two pixels are left out. A point is the centre of a border pixel: pixel i is
    (i + 0.5) / width, which truncates to the pixel's index. An empty mask has no line.

    Args:
        folder: of the files.
        class_id: of all instances.
    """

    def __init__(self, folder: str = "yolo_seg", class_id: int = 0) -> None:
        super().__init__(folder)
        self.class_id = class_id

    def write(self, folder: Path, result: ImageResult) -> None:
        """See `FileWriter`."""
        height, width = result.prediction.size
        lines = []
        for parts in result.prediction.to_polygons():
            if parts:
                points = (join_outlines(parts).astype(float) + 0.5) / (width, height)
                lines.append(" ".join([str(self.class_id), *(f"{value:.6f}" for value in points.ravel())]))
        with atomic_path(folder / f"{result.source_image.key}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
