"""Names of image files in lists, compared and found alike whichever system wrote them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def normal_name(name: str) -> str:
    """One form of a name: `/` between its parts, letters composed (NFC), no `.` and no empty parts."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def ends_alike(a: str, b: str) -> bool:
    """Is one of two normal names the end of the other, whole parts each?"""
    return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")


def image_path(folder: Path, name: str) -> Path:
    """The file of this name below a folder, however it is spelt there; the name as it is where none is."""
    literal = folder / name
    if os.path.exists(literal):  # False for names no file can have
        return literal
    path = folder
    for part in normal_name(name).split("/"):
        forms = (path / unicodedata.normalize(form, part) for form in ("NFC", "NFD"))
        found = next((form for form in forms if os.path.exists(form)), None)
        if found is None:
            return literal
        path = found
    return path
