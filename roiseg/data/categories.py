"""The categories of a COCO file: by name, and in messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.common.files import read_json

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
    content = read_json(path, "annotations", each=_compact)
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


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key in ("categories", "id", "name")}
