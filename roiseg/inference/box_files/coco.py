"""Boxes from a COCO json: annotations or results."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data.coco_reader import known_categories
from roiseg.data.images import exif_rotated_size, rotation_mismatch
from roiseg.inference.box_files.base import ImageBoxes, NamedBoxFile, Names, as_float32
from roiseg.inference.sources.source import SourceImage, name_number

log = logging.getLogger(__name__)

_READ = frozenset(
    {"images", "annotations", "id", "file_name", "height", "width"}
    | {"image_id", "category_id", "bbox", "iscrowd", "score", "categories", "name"}
)


class CocoBoxes(NamedBoxFile):
    """The `bbox` of every annotation or result of one category.

    A results file has no file names: image 139 is the image with that number as its name,
    `000000000139.jpg`. Boxes without area are left out and counted in a warning.

    Args:
        path: the json file.
        category_id: the category to read.
        crowd: boxes marked `iscrowd`: "region" leaves them out with a warning, "instance" reads them.

    Raises:
        UserError: not json, not COCO, or an invalid record; names file, record and field.
    """

    has_ids = True

    def __init__(self, path: Path, category_id: int = 1, crowd: str = "region") -> None:
        self.path = path
        self._crowd = crowd
        content = read_json(path, "boxes", each=lambda record: {k: record[k] for k in record if k in _READ})
        self._images: dict[str, dict[str, Any]] | None = None
        self._names = Names((), path)
        if isinstance(content, dict):
            self._images = _images(content, path)
            self._names = Names(self._images, path)
        self._rows = self._read(content, category_id)

    def lists(self, name: str) -> bool:
        """See `BoxFile`; an empty results file lists every image."""
        if self._images is not None:
            return super().lists(name)
        return name_number(name) in self._rows or not self._rows

    def find(self, image: SourceImage, size: tuple[int, int]) -> ImageBoxes | None:
        """See `BoxFile`."""
        if self._images is not None:
            return super().find(image, size)
        number = name_number(image.name)
        return None if number is None else ImageBoxes.of_rows(self._rows.get(number, []), number)

    def _read_boxes(self, name: str, image: SourceImage, size: tuple[int, int]) -> ImageBoxes:
        assert self._images is not None
        record = self._images[name]
        stated = (record.get("height"), record.get("width"))
        if None not in stated and stated != size:
            raise UserError(
                f"boxes file {self.path} says {name} is {stated[1]}x{stated[0]} pixels, {image.name} is "
                f"{size[1]}x{size[0]}: the boxes belong to another image"
            )
        if image.path is not None and exif_rotated_size(image.path) == stated:
            raise rotation_mismatch(image.path, size)
        boxes = ImageBoxes.of_rows(self._rows.get(record["id"], []), record["id"])
        return replace(boxes, size_matches=None not in stated)

    def _read(self, content: Any, category_id: int) -> dict[int, list[list[float]]]:
        records, what = (content, "") if self._images is None else (content.get("annotations"), "annotations")
        if not isinstance(records, list):
            raise UserError(
                f"boxes file {self.path} has no list `annotations`, nor is it a list of results: "
                "it is not in COCO format"
            )
        ids = None if self._images is None else {image["id"] for image in self._images.values()}
        rows: dict[int, list[list[float]]] = {}
        empty = crowds = 0
        for number, record in enumerate(records):
            where = f"{what}[{number}] in boxes file {self.path}"
            if not isinstance(record, dict):
                raise UserError(f"{where} is not an object")
            if record.get("category_id") != category_id:
                continue
            if record.get("iscrowd") and self._crowd == "region":
                crowds += 1
                continue
            image_id: Any = record.get("image_id")
            if not _is_whole(image_id) or (ids is not None and image_id not in ids):
                raise UserError(f"{where}: `image_id` {image_id!r} is not the id of any image in the file")
            x1, y1, x2, y2, score = _numbers(record, where)
            if x2 > x1 and y2 > y1:
                rows.setdefault(image_id, []).append([x1, y1, x2, y2, score])
            else:
                empty += 1
        if empty:
            log.warning("%s: %d boxes without area left out", self.path, empty)
        if crowds:
            log.warning(
                "%s: %d boxes marked `iscrowd` left out; crowd=instance reads them like the others",
                self.path, crowds,
            )  # fmt: skip
        if crowds and not rows:
            raise UserError(
                f"boxes file {self.path}: all boxes are marked `iscrowd`: crowd=instance reads them"
            )
        if records and not rows:
            raise UserError(
                f"boxes file {self.path} has no box of category_id {category_id} "
                f"(it has {known_categories(content, records)}): set another category_id"
            )
        return rows


def _images(content: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return the image records by file name."""
    records = content.get("images")
    if not isinstance(records, list):
        raise UserError(f"boxes file {path} has no list `images`: it is not in COCO format")
    found, ids = {}, set[int]()
    for number, record in enumerate(records):
        where = f"images[{number}] in boxes file {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is not an object")
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: `file_name` must be a text, got {name!r}")
        if not _is_whole(record.get("id")):
            raise UserError(f"{where}: `id` must be a whole number, got {record.get('id')!r}")
        if name in found:
            raise UserError(f"{where}: file_name {name} occurs twice: names must be unique")
        if record["id"] in ids:
            raise UserError(f"{where}: id {record['id']} occurs twice; ids must be unique")
        ids.add(record["id"])
        found[name] = record
    return found


def _numbers(record: dict[str, Any], where: str) -> list[float]:
    """Read x1, y1, x2, y2 and score of a record."""
    bbox, score = record.get("bbox"), record.get("score", 1.0)
    numbers = [*map(as_float32, bbox)] if isinstance(bbox, list) and len(bbox) == 4 else [math.nan]
    corners = [*numbers[:2], *(as_float32(a + b) for a, b in zip(numbers, numbers[2:], strict=False))]
    if not all(map(math.isfinite, corners)):
        raise UserError(f"{where}: `bbox` must be four finite numbers x, y, width, height, got {bbox!r:.80}")
    if not math.isfinite(as_float32(score)):
        raise UserError(f"{where}: `score` must be a finite number, got {score!r:.80}")
    return [*corners, as_float32(score)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
