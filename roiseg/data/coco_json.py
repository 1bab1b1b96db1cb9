"""COCO instances json: one parse, every record validated."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data.annotations import Annotations
from roiseg.data.rle import checked_counts

log = logging.getLogger(__name__)

_FAR = 10  # image sizes a polygon may lie outside
_HUGE = 1e30  # no coordinate; also what float32 still holds (nan and infinity are not below it)


def load_annotations(path: str | Path, category_id: int = 1) -> Annotations:
    """Parse and check a COCO instances file.

    Instances without any area (a side of 0, polygons of fewer than 3 points only) are dropped and
    counted in a warning; instances of other categories are left out.

    Args:
        path: the json file.
        category_id: the one category to read.

    Raises:
        UserError: the file is absent, broken, or a record is wrong; names file, record and field.
    """
    path = Path(path)
    content = read_json(path, "annotations")
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"annotations file {path} has no list `{key}`: it is not in COCO format")
    images = _read_images(content["images"], path)
    grouped: list[list[_Instance]] = [[] for _ in images]
    index = {image.id: i for i, image in enumerate(images)}
    seen: set[int] = set()
    dropped: Counter[str] = Counter()
    for number, record in enumerate(content["annotations"]):
        where = f"annotations[{number}] in {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is not an object")
        if record.get("category_id") != category_id:
            dropped["of another category"] += 1
            continue
        instance, image_index = _read_instance(record, where, images, index)
        if instance.id in seen:
            raise UserError(f"{where}: id {instance.id} occurs twice; ids must be unique")
        seen.add(instance.id)
        if instance.empty:
            dropped["without area"] += 1
            continue
        grouped[image_index].append(instance)
    if dropped["without area"]:
        log.warning("%s: %d instances without area left out", path, dropped["without area"])
    if not any(grouped):
        known = sorted({repr(record.get("category_id")) for record in content["annotations"]})
        raise UserError(
            f"annotations file {path} has no instance of category_id {category_id} "
            f"(it has {', '.join(known) or 'no annotations'}): set another category_id or give another file"
        )
    return _pack(path, images, grouped)


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str
    height: int
    width: int
    pixel_size: float | None  # micrometres


@dataclass(frozen=True)
class _Instance:
    id: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 normalised
    crowd: bool
    polygons: list[NDArray[np.float32]]  # [P, 2] each, normalised
    counts: bytes  # compressed RLE, empty for polygons

    @property
    def empty(self) -> bool:
        x1, y1, x2, y2 = self.box
        return x2 <= x1 or y2 <= y1 or not (self.polygons or self.counts)


def _read_images(records: Sequence[Any], path: Path) -> list[_Image]:
    images: list[_Image] = []
    seen: set[int] = set()
    for number, record in enumerate(records):
        where = f"images[{number}] in {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is not an object")
        values: dict[str, Any] = {key: record.get(key) for key in ("id", "height", "width")}
        for key, value in values.items():
            if not _is_whole(value):
                raise UserError(f"{where}: `{key}` must be a whole number, got {value!r}")
            if key != "id" and not 1 <= value < 1 << 31:
                raise UserError(f"{where}: `{key}` must be a number of pixels above 0, got {value!r}")
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: `file_name` must be a text, got {name!r}")
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in name:
            raise UserError(
                f"{where}: file_name {name!r} leaves the image folder; give it relative to that folder"
            )
        if values["id"] in seen:
            raise UserError(f"{where}: id {values['id']} occurs twice; ids must be unique")
        seen.add(values["id"])
        images.append(
            _Image(values["id"], name, values["height"], values["width"], _read_pixel_size(record, where))
        )
    without = [number for number, image in enumerate(images) if image.pixel_size is None]
    if without and len(without) < len(images):
        raise UserError(
            f"images[{without[0]}] in {path} has no `pixel_size_um` but others have: give it to all or none"
        )
    return images


def _read_pixel_size(record: dict[str, Any], where: str) -> float | None:
    size = record.get("pixel_size_um")
    if size is not None and not (_is_numbers([size]) and size > 0):
        raise UserError(f"{where}: `pixel_size_um` must be a number of micrometres above 0, got {size!r}")
    return size


def _read_instance(
    record: dict[str, Any], where: str, images: list[_Image], index: dict[int, int]
) -> tuple[_Instance, int]:
    identity, image_id = record.get("id"), record.get("image_id")
    if not _is_whole(identity):
        raise UserError(f"{where}: `id` must be a whole number, got {identity!r}")
    where = f"{where} (id {identity})"
    if not _is_whole(image_id) or image_id not in index:
        raise UserError(f"{where}: `image_id` {image_id!r} is not the id of any image in the file")
    image = images[index[image_id]]
    bbox = record.get("bbox")
    if not _is_numbers(bbox) or len(bbox) != 4:
        raise UserError(f"{where}: `bbox` must be four finite numbers x, y, width, height, got {bbox!r}")
    x, y, w, h = bbox
    box = (
        max(0.0, x / image.width), max(0.0, y / image.height),
        min(1.0, (x + w) / image.width), min(1.0, (y + h) / image.height),
    )  # fmt: skip
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise UserError(f"{where}: `iscrowd` must be 0 or 1, got {crowd!r}")
    polygons, counts = _read_segmentation(record.get("segmentation"), where, image)
    return _Instance(identity, box, bool(crowd), polygons, counts), index[image_id]


def _read_segmentation(
    segmentation: Any, where: str, image: _Image
) -> tuple[list[NDArray[np.float32]], bytes]:
    if isinstance(segmentation, dict):
        try:
            size = (image.height, image.width)
            counts = checked_counts(segmentation, size)
            return [], counts if coco_mask.area({"size": size, "counts": counts}) else b""
        except ValueError as error:
            raise UserError(f"{where}: `segmentation`: {error}") from None
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: `segmentation` must be a list of polygons or an RLE, got {segmentation!r}")
    scale = np.array([image.width, image.height], np.float64)
    polygons = []
    for part in segmentation:
        if not _is_numbers(part) or len(part) % 2:
            raise UserError(
                f"{where}: `segmentation`: a polygon must be an even list of finite numbers x, y, x, y, ..."
            )
        points = np.array(part, np.float64).reshape(-1, 2) / scale
        if (np.abs(points) > _FAR).any():  # rasterizing takes memory in proportion
            raise UserError(f"{where}: `segmentation`: a polygon leaves the image by {_FAR} times its size")
        if len(points) >= 3:
            polygons.append(points.astype(np.float32))
    return polygons, b""


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_numbers(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < _HUGE for v in value
    )


def _pack(path: Path, images: list[_Image], grouped: list[list[_Instance]]) -> Annotations:
    instances = [instance for group in grouped for instance in group]
    polygons = [polygon for instance in instances for polygon in instance.polygons]
    counts = [instance.counts for instance in instances]

    def ends(lengths: list[int]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)

    return Annotations(
        path=path,
        image_ids=np.array([image.id for image in images], np.int64),
        file_names=np.array([image.file_name for image in images]),
        sizes=np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
        pixel_sizes=np.array([image.pixel_size or 1.0 for image in images], np.float32),
        first=ends([len(group) for group in grouped]),
        ids=np.array([instance.id for instance in instances], np.int64),
        boxes=np.array([instance.box for instance in instances], np.float32).reshape(-1, 4),
        crowd=np.array([instance.crowd for instance in instances], bool),
        parts=ends([len(instance.polygons) for instance in instances]),
        part_ends=ends([len(polygon) for polygon in polygons])[1:],
        points=np.concatenate(polygons) if polygons else np.zeros((0, 2), np.float32),
        runs=np.frombuffer(b"".join(counts), np.uint8),
        run_ends=ends([len(c) for c in counts]),
    )
