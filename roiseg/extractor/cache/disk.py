"""Features in files, shared by runs and processes."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor

from roiseg.common.errors import UnwritableError, UserError, unwritable_error
from roiseg.common.files import home_path, write_json
from roiseg.extractor.cache.base import CacheKey, CacheResult, FeatureCache, shared
from roiseg.extractor.cache.codec import Codec, Shape
from roiseg.extractor.cache.folders import (
    ABOUT,
    MAGIC,
    cache_folders,
    foreign_files,
    is_cache,
    opened_at,
    remove_cache,
    remove_outdated,
    size_of,
)

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<8s16sQ")  # magic, fingerprint, checksum of the row
_BLOCK = 1 << 20  # bytes read at a time
_RESERVE = 1_000_000_000  # bytes of the disk to leave free
_PARTS = [f"{number:02x}" for number in range(256)]  # folders of entries


class _StaleError(Exception):
    """The fingerprint differs."""


class _DamagedError(Exception):
    """The file is damaged."""


class DiskCache(FeatureCache):
    """One file per image in one folder per extractor.

    Writes are atomic and files have a checksum: a damaged file is removed, reported and computed again. Any
    number of processes may read and write at once, and files may be deleted meanwhile. A folder that cannot
    be written is only read, with a warning. Folders of other extractors are removed when the budget needs it,
    least recently opened first, see `roiseg.extractor.cache.folders`.

    Each process counts the others' files whenever it has filled a 16th of the free room: n processes exceed
    the budget by at most (n - 1) / 16 of it and n - 1 files.

    Args:
        folder: contains the extractors' folders.
        codec, budget_gb: see `FeatureCache`; the budget covers all of them.
    """

    def __init__(self, folder: str | Path, codec: Codec, budget_gb: PositiveFloat = 20.0) -> None:
        super().__init__(codec, budget_gb)
        self._writable = True
        self.folder = home_path(folder).absolute()
        self._unique, self._numbers = uuid.uuid4().hex, itertools.count()

    def open(
        self, extractor: str, shapes: Sequence[Shape], image_size: tuple[int, int] | None = None
    ) -> None:
        """See `FeatureCache`.

        Raises:
            UserError: the folder contains other files, or a file is in its place.
        """
        super().open(extractor, shapes, image_size)
        self._identity = repr((extractor, self.shapes, type(self.codec).__name__, self.row_bytes))
        self._path = self.folder / xxhash.xxh3_64_hexdigest(self._identity.encode())
        self._damaged = shared(torch.zeros((), dtype=torch.int64))  # loader processes find them
        if self._path.is_dir() and not is_cache(self._path, self._path.name) and foreign_files(self._path):
            raise UserError(f"data.cache.folder: {self._path} contains other files: give another folder")
        try:
            self._make()
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"data.cache.folder {self.folder} cannot be created ({error.strerror}): give another one"
            ) from None
        except (OSError, UnwritableError) as error:
            self._stop_storing(error)
            return
        remove_outdated(self._path)
        self._count()

    def _make(self) -> None:
        """Create the folder, again if another process removes it meanwhile."""
        for attempts_left in reversed(range(10)):
            try:
                for name in _PARTS:
                    (self._path / name).mkdir(parents=True, exist_ok=True)
                about = {"file_bytes": self._file_bytes, "identity": self._identity}
                write_json(self._path / ABOUT, about, lambda path: is_cache(path.parent, self._path.name))
                return
            except (FileNotFoundError, FileExistsError, UnwritableError):
                if not attempts_left:
                    raise

    @property
    def damaged(self) -> int:
        """See `FeatureCache`."""
        return int(self._damaged)

    @property
    def _file_bytes(self) -> int:
        return _HEADER.size + self.row_bytes

    def get(self, key: CacheKey) -> CacheResult:
        """See `FeatureCache`; removes a damaged file."""
        path = self.path(key)
        try:
            with open(path, "rb", buffering=0) as stream:
                row = self._read(stream, key)
        except (FileNotFoundError, _StaleError):
            return CacheResult(False)
        except (OSError, _DamagedError) as error:
            self._damaged += 1
            log.warning("feature cache: %s is damaged (%s) and computed again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return CacheResult(False)
        return CacheResult(True, row)

    def _read(self, stream: io.FileIO, key: CacheKey) -> NDArray[np.uint8]:
        """Read a row and compute its checksum block by block."""
        length = os.fstat(stream.fileno()).st_size
        if length != self._file_bytes:
            raise _DamagedError(f"{length} bytes, should be {self._file_bytes}")
        if length > _BLOCK and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        magic, fingerprint, expected = _HEADER.unpack(stream.read(_HEADER.size))
        if magic == MAGIC and fingerprint != key.fingerprint:
            raise _StaleError
        row = np.empty(self.row_bytes, np.uint8)
        checksum, done = xxhash.xxh3_64(), 0
        while done < len(row):
            block = row.data[done : done + _BLOCK]
            count = stream.readinto(block)
            checksum.update(block[:count])
            done += count or len(row)
        if magic != MAGIC or checksum.intdigest() != expected:
            raise _DamagedError("its checksum differs")
        return row

    def store(self, keys: Sequence[CacheKey], rows: Tensor) -> None:
        """See `FeatureCache`."""
        if not self._writable:
            self.counts["rejected"] += len(keys)
            return
        for key, row in zip(keys, rows.cpu().numpy(), strict=True):
            path = self.path(key)
            replaces = path.exists()
            if not replaces and self._unwritten <= 0:
                self._count()  # other processes write as well
            if not replaces and self._room < self._file_bytes:
                self.counts["rejected"] += 1
                continue
            if not self._write(path, key, row):
                return
            if not replaces:
                self._room -= self._file_bytes
                self._unwritten -= 1

    def load(self, keys: Sequence[CacheKey], read: Tensor) -> Tensor:
        """See `FeatureCache`."""
        return read

    def capacity(self, wanted: int) -> int:
        """See `FeatureCache`; removes other extractors' folders, least recently opened first."""
        others = [path for path in cache_folders(self.folder) if path != self._path]
        for path in sorted(others, key=opened_at):
            if self._capacity() >= wanted:
                break
            log.info("feature cache: %s is removed to make room", path)
            remove_cache(path)
            self._count()
        return self._capacity()

    def room(self) -> tuple[int, str]:
        """See `FeatureCache`."""
        existing = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        used = sum(size_of(path) for path in cache_folders(self.folder))
        return used + max(0, shutil.disk_usage(existing).free - _RESERVE), str(self.folder)

    def stored(self) -> int:
        """See `FeatureCache`; entries of other images and views count as well."""
        return size_of(self._path) // self._file_bytes

    def _capacity(self) -> int:
        return self._room + size_of(self._path)

    def path(self, key: CacheKey) -> Path:
        """Return the file of a key."""
        name = key.key.hex()
        return self._path / name[:2] / name[2:]

    def _write(self, path: Path, key: CacheKey, row: NDArray[np.uint8]) -> bool:
        temporary = path.with_name(f"{path.name}.{self._unique}-{next(self._numbers)}.tmp")
        try:
            with open(temporary, "xb") as stream:
                stream.write(_HEADER.pack(MAGIC, key.fingerprint, xxhash.xxh3_64_intdigest(row.data)))
                stream.write(row.data)
            os.replace(temporary, path)
        except FileNotFoundError:  # another process has removed the folder
            with contextlib.suppress(OSError, UserError):
                self._make()
            self._count()
            return False
        except OSError as error:  # for example a full disk
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._stop_storing(error)
            return False
        return True

    def _stop_storing(self, error: OSError | UnwritableError) -> None:
        """Store nothing from now on; the run continues without."""
        text = str(unwritable_error(self.folder, error) if isinstance(error, OSError) else error)
        log.warning("feature cache: %s; nothing more is stored", text)
        self._room, self._writable = 0, False

    def _count(self) -> None:
        """Measure the free room, and set after how many files to measure again."""
        used = sum(size_of(path) for path in cache_folders(self.folder))
        try:
            on_disk = shutil.disk_usage(self.folder).free - _RESERVE
        except OSError:  # another process has removed the folder
            on_disk = 0
        self._room = max(0, min(self.budget - used, on_disk))
        self._unwritten = self._room // self._file_bytes // 16 + 1
