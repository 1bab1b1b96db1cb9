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
from typing import Annotated, Any, Literal

from pycocotools import mask as coco_mask
from pydantic import AfterValidator, Field, PositiveFloat, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from roiseg.common.console import status
from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.common.limits import MAX_PIXELS
from roiseg.common.types import STRICT, check_record
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
        with status(f"reading {path.name}, {path.stat().st_size / 1e6:.0f} MB"), no_garbage_collection():
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
def no_garbage_collection() -> Iterator[None]:
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


def _relative(name: Any) -> Any:
    parts = name.replace("\\", "/").split("/") if isinstance(name, str) else [""]
    if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in name:
        raise ValueError("be the name of a file in the image folder, relative to it")
    return name


_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class _Image(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    id: _Whole
    file_name: Annotated[Any, AfterValidator(_relative)]
    height: _Side
    width: _Side
    pixel_size_um: NotRequired[PositiveFloat | None]


class _Instance(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    id: _Whole
    image_id: _Whole
    bbox: Annotated[list[Annotated[float, Field(gt=-HUGE, lt=HUGE)]], Field(min_length=4, max_length=4)]
    iscrowd: NotRequired[Literal[0, 1] | bool]


_IMAGE, _INSTANCE = TypeAdapter(_Image), TypeAdapter(_Instance)


def _read_images(records: Sequence[Any], path: Path) -> list[ImageRecord]:
    images: list[ImageRecord] = []
    ids: set[int] = set()
    for number, record in enumerate(records):
        where = f"images[{number}] in {path}"
        image = check_record(record, _IMAGE, where)
        height, width = image["height"], image["width"]
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{where}: {width}x{height} pixels (`width`, `height`) are more than {MAX_PIXELS:,}, "
                "the limit for an image: scale it down"
            )
        _add_id(image["id"], ids, where)
        pixel_size = image.get("pixel_size_um")
        images.append(ImageRecord(image["id"], image["file_name"], height, width, pixel_size))
    without = [number for number, image in enumerate(images) if image.pixel_size is None]
    if without and len(without) < len(images):
        raise UserError(
            f"images[{without[0]}] in {path} has no `pixel_size_um` but others have: give it to all or none"
        )
    return images


def _add_id(identity: int, ids: set[int], where: str) -> None:
    if identity in ids:
        raise UserError(f"{where}: id {identity} occurs twice; ids must be unique")
    ids.add(identity)


def _read_instances(
    records: Sequence[Any], path: Path, images: list[ImageRecord], category_id: int
) -> list[InstanceRecord]:
    """Return the instances of the category, those without area included."""
    index = {image.id: i for i, image in enumerate(images)}
    instances: list[InstanceRecord] = []
    ids: set[int] = set()
    for number, record in enumerate(records):
        if isinstance(record, dict) and record.get("category_id") != category_id:
            continue
        found = check_record(record, _INSTANCE, f"annotations[{number}] in {path}")
        where = record_name(number, found["id"], path)
        _add_id(found["id"], ids, where)
        if found["image_id"] not in index:
            raise UserError(f"{where}: `image_id` {found['image_id']} is not the id of any image in the file")
        position = index[found["image_id"]]
        image = images[position]
        x, y, w, h = found["bbox"]
        box = (
            max(0.0, x / image.width), max(0.0, y / image.height),
            min(1.0, (x + w) / image.width), min(1.0, (y + h) / image.height),
        )  # fmt: skip
        parts, counts = _read_segmentation(record.get("segmentation"), where, image)
        crowd = bool(found.get("iscrowd", 0))
        instances.append(InstanceRecord(number, found["id"], position, box, crowd, parts, counts))
    return instances


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
    is_list = isinstance(segmentation, list)
    if not is_list or any(not isinstance(part, array) or len(part) % 2 for part in segmentation):
        raise UserError(f"{where}: {NOT_A_POLYGON}")
    return segmentation, b""


_SHOWN = 20


def find_category(name: str, path: str | Path, key: str) -> int:
    """Return the id of the category of this name in a COCO file.

    Args:
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
