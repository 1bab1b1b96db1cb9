"""Persons only, no crowd; and nested subsets of the images."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from roiseg.common.console import status
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, read_json
from roiseg.data.prepare.check import PERSON, Coco, check_persons


def read_persons(path: Path) -> Coco:
    """Read an ordinary COCO instances file and keep the persons that are no crowd.

    Raises:
        UserError: the file is absent, broken, not a COCO instances file, or shows no person.
    """
    with status(f"reading {path.name}"):
        persons = person_only(read_json(path, "annotations"), str(path))
    check_persons(persons, str(path))
    return persons


def person_only(coco: Any, where: str) -> Coco:
    """Keep the category person, its annotations that are no crowd, and the images that show one.

    Args:
        coco: content of a COCO instances file; its dicts are taken over as they are.
        where: name of the file, for error messages.
    """
    images, annotations, categories = (
        _records(coco, key, where) for key in ("images", "annotations", "categories")
    )
    person = [category for category in categories if category.get("id") == PERSON]
    if [category.get("name") for category in person] != ["person"]:
        raise UserError(f"{where}: category {PERSON} is not `person`; give COCO's instances_*.json")
    try:
        persons = [a for a in annotations if a["category_id"] == PERSON and not a.get("iscrowd", 0)]
        shown = {a["image_id"] for a in persons}
        listed = {image["id"] for image in images}
        if astray := next((a for a in persons if a["image_id"] not in listed), None):
            raise UserError(
                f"{where}: annotation {astray.get('id')} is of image {astray['image_id']}, not in `images`"
            )
        with_persons = [image for image in images if image["id"] in shown]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: an image or annotation has no proper field {error}; get the file anew"
        ) from None
    if not persons:
        raise UserError(f"{where}: no image shows a person")
    heading = {key: coco[key] for key in ("info", "licenses") if key in coco}
    return {**heading, "images": with_persons, "annotations": persons, "categories": person}


def _records(coco: Any, key: str, where: str) -> list[dict[str, Any]]:
    records = coco.get(key) if isinstance(coco, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{where} has no list `{key}` of objects; give COCO's instances_*.json")
    return records


def subset(full: Coco, size: int, seed: int) -> Coco:
    """Draw `size` images (all, if there are fewer), with all their annotations, in the order of `full`.

    With one seed a smaller subset lies within every larger one: both are the head of one shuffled list.
    """
    order = sorted(image["id"] for image in full["images"])
    random.Random(seed).shuffle(order)
    chosen = set(order[:size])
    return {
        **full,
        "images": [image for image in full["images"] if image["id"] in chosen],
        "annotations": [a for a in full["annotations"] if a["image_id"] in chosen],
    }


def write_if_different(path: Path, coco: Coco) -> bool:
    """Write a COCO file, compact as the original ones, unless `path` holds it already.

    Returns:
        Whether the file was written.
    """
    content = json.dumps(coco, separators=(",", ":")).encode()
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return True
