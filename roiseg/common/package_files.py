"""Find the folders that ship with roiseg: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from roiseg.common.files import atomic_path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = (_PACKAGE / "conf").is_dir()  # pyproject.toml maps the folders into the wheel


def package_file(name: str) -> Path:
    """Return the path of a file or folder that ships with roiseg, such as `conf`."""
    return (_PACKAGE if _INSTALLED else _PACKAGE.parent) / name


def default_root() -> Path:
    """Return the folder of `data/` and `outputs/` for notebooks: the checkout, else the working directory."""
    return Path.cwd() if _INSTALLED else _PACKAGE.parent


@dataclass(frozen=True)
class ShippedFile:
    """A copy of a file that ships with roiseg."""

    path: str | Path
    name: str
    made = "it ships with roiseg and is copied there on first use"

    @property
    def original(self) -> Path:
        """Return the path of the original."""
        return package_file(self.name)

    def makes(self, path: str | Path) -> bool:
        """Tell whether `path` is the copy."""
        return Path(path).absolute() == Path(self.path).absolute()

    def ensure(self) -> Path:
        """Copy the file if it is missing, and return its path."""
        path = Path(self.path)
        if not path.is_file():
            with atomic_path(path) as temporary:
                shutil.copyfile(self.original, temporary)
        return path
