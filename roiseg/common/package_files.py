"""Find the folders that ship with roiseg: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = (_PACKAGE / "conf").is_dir()  # pyproject.toml maps the folders into the wheel


def package_file(name: str) -> Path:
    """Return the path of a file or folder that ships with roiseg, such as `conf`."""
    return (_PACKAGE if _INSTALLED else _PACKAGE.parent) / name


def default_root() -> Path:
    """Return the folder of `data/` and `outputs/` for notebooks: the checkout, else the working directory."""
    return Path.cwd() if _INSTALLED else _PACKAGE.parent
