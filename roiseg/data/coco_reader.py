"""Read COCO instances json in one pass and validate every record; find its categories by name.

A file of 64,000 images holds some 17 million numbers. They become arrays while the file is parsed, so
that they never exist as Python objects all at once.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pycocotools import mask as coco_mask

from roiseg.common.console import status
from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.common.limits import MAX_PIXELS
from roiseg.data.annotation_records import (
    HUGE,
    NOT_A_POLYGON,
    ImageRecord,
    InstanceRecord,
    build_annotations,
    record_name,
)
from roiseg.data.annotations import Annotations
from roiseg.geometry.rle import checked_counts

_READ = frozenset(
    {"images", "annotations", "id", "file_name", "height", "width", "pixel_size_um", "image_id"}
    | {"category_id", "bbox", "iscrowd", "segmentation", "size", "counts", "categories", "name"}
)


@dataclass(frozen=True)
class CocoReader:
    """Read COCO instances json: the first `data.reader`.

    Instances without any area (a side of 0, polygons of fewer than 3 points only) are dropped; instances of
    other categories are left out.
    """

    def __call__(self, path: Path, category_id: int) -> Annotations:
        """Parse and check a file; see `roiseg.data.annotation_loading.AnnotationReader`."""
        with status(f"reading {path.name}, {path.stat().st_size / 1e6:.0f} MB"), _no_garbage_collection():
            content = read_json(path, "annotations", each=_compact)
            for key in ("images", "annotations"):
                if not isinstance(content, dict) or not isinstance(content.get(key), list):
                    raise UserError(f"annotations file {path} has no list `{key}`: it is not in COCO format")
            images = _read_images(content["images"], path)
            instances = _read_instances(content["annotations"], path, images, category_id)
            annotations = build_annotations(path, images, instances)
        if not len(annotations.ids):
            if own := sum(record.get("category_id") == category_id for record in content["annotations"]):
                raise UserError(
                    f"annotations file {path}: none of its {own:,} instances of category_id {category_id} "
                    "has a mask (`segmentation` is empty): training needs masks, boxes are not enough"
                )
            known = known_categories(content, content["annotations"])
            raise UserError(
                f"annotations file {path} has no instance of category_id {category_id} (it has {known}): "
                "set another category_id or give another file"
            )
        return annotations


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles, which would take longer than parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Keep the fields that are read, polygons of numbers as arrays."""
    record = {key: value for key, value in record.items() if key in _READ}
    outline = record.get("segmentation")
    if isinstance(outline, list):
        record["segmentation"] = [_as_array(part) for part in outline]
    return record


def _as_array(part: Any) -> Any:
    if isinstance(part, list) and set(map(type, part)) <= {int, float}:
        try:
            return array("d", part)
        except OverflowError:
            return part
    return part


def _read_images(records: Sequence[Any], path: Path) -> list[ImageRecord]:
    images: list[ImageRecord] = []
    ids: set[int] = set()
    for number, record in enumerate(records):
        where = f"images[{number}] in {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is not an object")
        values: dict[str, Any] = {key: record.get(key) for key in ("id", "height", "width")}
        for key, value in values.items():
            if not _is_whole(value):
                raise UserError(f"{where}: `{key}` must be a whole number, got {value!r}")
            if key != "id" and not 1 <= value <= MAX_PIXELS:
                raise UserError(
                    f"{where}: `{key}` must be a number of pixels from 1 to {MAX_PIXELS:,}, got {value!r:.50}"
                )
        if values["height"] * values["width"] > MAX_PIXELS:
            raise UserError(
                f"{where}: {values['width']}x{values['height']} pixels (`width`, `height`) are more than "
                f"{MAX_PIXELS:,}, the limit for an image: scale it down"
            )
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: `file_name` must be a text, got {name!r}")
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in name:
            raise UserError(
                f"{where}: file_name {name!r} leaves the image folder; give it relative to that folder"
            )
        if values["id"] in ids:
            raise UserError(f"{where}: id {values['id']} occurs twice; ids must be unique")
        ids.add(values["id"])
        images.append(
            ImageRecord(
                values["id"], name, values["height"], values["width"], _read_pixel_size(record, where)
            )
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


def _read_instances(
    records: Sequence[Any], path: Path, images: list[ImageRecord], category_id: int
) -> list[InstanceRecord]:
    """Return the instances of the category, those without area included."""
    index = {image.id: i for i, image in enumerate(images)}
    instances: list[InstanceRecord] = []
    ids: set[int] = set()
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"annotations[{number}] in {path} is not an object")
        if record.get("category_id") != category_id:
            continue
        instance = _read_instance(number, record, path, images, index)
        if instance.id in ids:
            raise UserError(
                f"annotations[{number}] in {path}: id {instance.id} occurs twice; ids must be unique"
            )
        ids.add(instance.id)
        instances.append(instance)
    return instances


def _read_instance(
    number: int, record: dict[str, Any], path: Path, images: list[ImageRecord], index: dict[int, int]
) -> InstanceRecord:
    identity, image_id = record.get("id"), record.get("image_id")
    if not _is_whole(identity):
        raise UserError(f"annotations[{number}] in {path}: `id` must be a whole number, got {identity!r}")
    where = record_name(number, identity, path)
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
    parts, counts = _read_segmentation(record.get("segmentation"), where, image)
    return InstanceRecord(number, identity, index[image_id], box, bool(crowd), parts, counts)


def _read_segmentation(segmentation: Any, where: str, image: ImageRecord) -> tuple[list[array[float]], bytes]:
    if isinstance(segmentation, dict):
        try:
            size = (image.height, image.width)
            counts = checked_counts(segmentation, size)
            return [], counts if coco_mask.area({"size": size, "counts": counts}) else b""
        except ValueError as error:
            raise UserError(f"{where}: `segmentation`: {error}") from None
    if segmentation is None:
        raise UserError(f"{where} has no `segmentation`: training needs masks, boxes are not enough")
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: `segmentation` must be a list of polygons or an RLE, got {segmentation!r}")
    for part in segmentation:
        if not isinstance(part, array) or len(part) % 2:
            raise UserError(f"{where}: {NOT_A_POLYGON}")
    return segmentation, b""


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_numbers(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and set(map(type, value)) <= {int, float}
        and all(-HUGE < v < HUGE for v in value)
    )


_SHOWN = 20


def find_category(name: str, path: str | Path, key: str) -> int:
    """Return the id of the category of this name in a COCO file.

    Args:
        name: of the category.
        path: the file.
        key: of the configuration that gives the name, for messages.

    Raises:
        UserError: the file has no such category, or several (lists all).
    """
    kept = ("categories", "id", "name")
    content = read_json(path, "annotations", each=lambda record: {k: record[k] for k in kept if k in record})
    names = category_names(content)
    found = [number for number, each in names.items() if each == name]
    if len(found) == 1:
        return found[0]
    has = listed(names, names) if names else "no list of categories; give the number"
    what = "several categories" if found else "no category"
    raise UserError(f"configuration `{key}`: {what} {name!r} in {path}; it has {has}")


def category_names(content: Any) -> dict[int, str]:
    """Return the valid categories of a parsed file, id -> name."""
    records = content.get("categories") if isinstance(content, dict) else None
    return {
        record["id"]: record["name"]
        for record in (records if isinstance(records, list) else ())
        if isinstance(record, dict) and type(record.get("id")) is int and isinstance(record.get("name"), str)
    }


def known_categories(content: Any, records: Sequence[Any]) -> str:
    """List the categories that annotation records have, with their names if the file has them."""
    used = {
        repr(record.get("category_id")): record.get("category_id")
        for record in records
        if isinstance(record, dict)
    }
    return (
        listed([used[text] for text in sorted(used)], category_names(content)) if used else "no annotations"
    )


def listed(ids: Any, names: dict[int, str]) -> str:
    """List ids and names for a message: "1 (person), 3 (car)"."""
    words = [
        f"{number!r:.40}" + (f" ({names[number]:.40})" if type(number) is int and number in names else "")
        for number in ids
    ]
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
