"""Features kept in files, shared by runs and processes."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import write_json
from roiseg.extractor.cache.base import FeatureCache, Key, Lookup
from roiseg.extractor.cache.codec import Codec, Shape

log = logging.getLogger(__name__)

_MAGIC = b"roisegF1"
_HEADER = struct.Struct("<8s16sQ")  # magic, content, checksum of the row
_LEFTOVER = 3600.0  # seconds after which a temporary file has no writer any more
_RESERVE = 1_000_000_000  # bytes of the disk that stay free


class DiskCache(FeatureCache):
    """One file an image in a folder an extractor.

    A file is whole or absent (written beside, then renamed) and carries a checksum: a damaged one is
    removed, reported and computed anew. Any number of processes may read and write at once. Folders of
    other extractors make room when the budget needs it, the one opened longest ago first.

    Args:
        folder: where all extractors' folders lie.
        codec, budget_gb: see `FeatureCache`; the budget is for all of them together.
    """

    def __init__(self, folder: str | Path, codec: Codec, budget_gb: float = 20.0) -> None:
        super().__init__(codec, budget_gb)
        self.folder = Path(folder).expanduser().absolute()
        self._numbers = itertools.count()

    def open(self, extractor: str, shapes: Sequence[Shape]) -> None:
        """See `FeatureCache`.

        Raises:
            UserError: the folder cannot be written.
        """
        super().open(extractor, shapes)
        identity = repr((extractor, self.shapes, type(self.codec).__name__, self.row_bytes))
        self._own = self.folder / xxhash.xxh3_64_hexdigest(identity.encode())
        try:
            for number in range(256):
                (self._own / f"{number:02x}").mkdir(parents=True, exist_ok=True)
            write_json(self._own / "about.json", {"file_bytes": self._file_bytes, "identity": identity})
        except OSError as error:
            raise UserError(
                f"data.cache.folder {self.folder} cannot be written ({error.strerror}): give another one"
            ) from None
        _remove_leftovers(self._own)
        self._damaged = torch.zeros((), dtype=torch.int64).share_memory_()  # loader processes find them
        self._count()

    @property
    def damaged(self) -> int:
        """See `FeatureCache`."""
        return int(self._damaged)

    @property
    def _file_bytes(self) -> int:
        return _HEADER.size + self.row_bytes

    def look_up(self, key: Key) -> Lookup:
        """See `FeatureCache`; a damaged file is removed."""
        path = self._path(key)
        try:
            content = np.fromfile(path, np.uint8)
        except FileNotFoundError:
            return Lookup(False)
        except OSError as error:
            self._damaged += 1
            log.warning("feature cache: %s cannot be read (%s); computed anew", path, error.strerror)
            return Lookup(False)
        row = content[_HEADER.size :]
        if len(row) == self.row_bytes:
            magic, made_from, checksum = _HEADER.unpack(content[: _HEADER.size].tobytes())
            if magic == _MAGIC and made_from != key.content:
                return Lookup(False)
            if magic == _MAGIC and checksum == xxhash.xxh3_64_intdigest(row.data):
                return Lookup(True, row)
        self._damaged += 1
        log.warning("feature cache: %s is damaged; computed anew", path)
        path.unlink(missing_ok=True)
        return Lookup(False)

    def store(self, keys: Sequence[Key], rows: Tensor) -> None:
        """See `FeatureCache`."""
        for key, row in zip(keys, rows.cpu().numpy(), strict=True):
            path = self._path(key)
            replaces = path.exists()
            if not replaces and self._unwritten <= 0:
                self._count()  # other processes write, too
            if not replaces and self._room < self._file_bytes:
                self.counts["refused"] += 1
                continue
            if not self._write(path, key, row):
                return
            if not replaces:
                self._room -= self._file_bytes
                self._unwritten -= 1

    def rows(self, keys: Sequence[Key], read: Tensor) -> Tensor:
        """See `FeatureCache`."""
        return read

    def capacity(self, wanted: int) -> int:
        """See `FeatureCache`; removes other extractors' folders, the one opened longest ago first."""
        others = [path for path in _folders(self.folder) if path != self._own]
        for path in sorted(others, key=lambda p: (p / "about.json").stat().st_mtime):
            if self._capacity() >= wanted:
                break
            log.info("feature cache: %s makes room", path)
            shutil.rmtree(path, ignore_errors=True)
            self._count()
        return self._capacity()

    def _capacity(self) -> int:
        return self._room + _size(self._own)

    def _path(self, key: Key) -> Path:
        name = key.slot.hex()
        return self._own / name[:2] / name[2:]

    def _write(self, path: Path, key: Key, row: NDArray[np.uint8]) -> bool:
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{next(self._numbers)}.tmp")
        try:
            with open(temporary, "xb") as stream:
                stream.write(_HEADER.pack(_MAGIC, key.content, xxhash.xxh3_64_intdigest(row.data)))
                stream.write(row.data)
            os.replace(temporary, path)
        except OSError as error:  # the disk is full, or the folder was removed
            temporary.unlink(missing_ok=True)
            log.warning("feature cache: %s cannot be written (%s); going on", self.folder, error.strerror)
            self._room, self._unwritten = 0, 1 << 60
            return False
        return True

    def _count(self) -> None:
        """Learn how much there is, and after how many files of our own to look again."""
        used = sum(_size(path) for path in _folders(self.folder))
        on_disk = shutil.disk_usage(self.folder).free - _RESERVE
        self._room = max(0, min(self.budget - used, on_disk))
        self._unwritten = self._room // self._file_bytes // 16 + 1


def _folders(folder: Path) -> Iterator[Path]:
    return (path.parent for path in folder.glob("*/about.json"))


def _size(folder: Path) -> int:
    """Bytes of all files of an extractor's folder, which are all alike."""
    try:
        each = int(json.loads((folder / "about.json").read_text())["file_bytes"])
    except (OSError, ValueError, KeyError):
        return 0
    return each * sum(len(os.listdir(part)) for part in folder.glob("[0-9a-f][0-9a-f]"))


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote."""
    for path in folder.glob("*/*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _LEFTOVER:
                path.unlink()
        except OSError:
            continue
