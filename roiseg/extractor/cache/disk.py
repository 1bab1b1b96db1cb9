"""Features kept in files, shared by runs and processes."""

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
from torch import Tensor

from roiseg.common.errors import UnwritableError, UserError, unwritable_error
from roiseg.common.files import write_json
from roiseg.extractor.cache.base import CacheKey, CacheResult, FeatureCache, shared
from roiseg.extractor.cache.codec import Codec, Shape
from roiseg.extractor.cache.folders import (
    ABOUT,
    MAGIC,
    cache_folders,
    is_cache,
    opened_at,
    remove_cache,
    remove_outdated,
    size_of,
    strangers,
)

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<8s16sQ")  # magic, content, checksum of the row
_BLOCK = 1 << 20  # bytes read at a time
_RESERVE = 1_000_000_000  # bytes of the disk that stay free


class _StaleError(Exception):
    """Made from something else."""


class _DamagedError(Exception):
    """Not what was written."""


class DiskCache(FeatureCache):
    """One file an image in a folder an extractor.

    A file is whole or absent (written beside, then renamed) and carries a checksum: a damaged one is
    removed, reported and computed anew. Any number of processes may read and write at once, and all of it may
    be deleted meanwhile. Where nothing can be written it is only read, with a warning. Folders of other
    extractors make room when the budget needs it, the one opened longest ago first, see
    `roiseg.extractor.cache.folders`.

    What others write is counted whenever a 16th of the room there was is filled: n processes go beyond the
    budget by (n - 1) / 16 of it and n - 1 files at the very most, and by a few files in practice.

    Args:
        folder: where all extractors' folders lie.
        codec, budget_gb: see `FeatureCache`; the budget is for all of them together.
    """

    def __init__(self, folder: str | Path, codec: Codec, budget_gb: float = 20.0) -> None:
        super().__init__(codec, budget_gb)
        self._writable = True
        self.folder = Path(folder).expanduser().absolute()
        self._unique, self._numbers = uuid.uuid4().hex, itertools.count()

    def open(self, extractor: str, shapes: Sequence[Shape]) -> None:
        """See `FeatureCache`.

        Raises:
            UserError: the folder cannot be one, because a file is in the way.
        """
        super().open(extractor, shapes)
        self._identity = repr((extractor, self.shapes, type(self.codec).__name__, self.row_bytes))
        self._own = self.folder / xxhash.xxh3_64_hexdigest(self._identity.encode())
        self._damaged = shared(torch.zeros((), dtype=torch.int64))  # loader processes find them
        if self._own.is_dir() and not is_cache(self._own, self._own.name) and strangers(self._own):
            raise UserError(f"data.cache.folder: {self._own} holds other files: give another folder")
        try:
            self._make()
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"data.cache.folder {self.folder} cannot be made ({error.strerror}): give another one"
            ) from None
        except (OSError, UnwritableError) as error:
            self._give_up(error)
            return
        remove_outdated(self._own)
        self._count()

    def _make(self) -> None:
        """Make the folder, again if another process removes it meanwhile."""
        for attempts_left in reversed(range(10)):
            try:
                for number in range(256):
                    (self._own / f"{number:02x}").mkdir(parents=True, exist_ok=True)
                about = {"file_bytes": self._file_bytes, "identity": self._identity}
                write_json(self._own / ABOUT, about, lambda path: is_cache(path.parent, self._own.name))
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
        """See `FeatureCache`; a damaged file is removed."""
        path = self.path(key)
        try:
            with open(path, "rb", buffering=0) as stream:
                row = self._read(stream, key)
        except (FileNotFoundError, _StaleError):
            return CacheResult(False)
        except (OSError, _DamagedError) as error:
            self._damaged += 1
            log.warning("feature cache: %s is damaged (%s); computed anew", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return CacheResult(False)
        return CacheResult(True, row)

    def _read(self, stream: io.FileIO, key: CacheKey) -> NDArray[np.uint8]:
        """Read a row, its checksum taken while the disk delivers the rest."""
        length = os.fstat(stream.fileno()).st_size
        if length != self._file_bytes:
            raise _DamagedError(f"{length} bytes, should be {self._file_bytes}")
        if length > _BLOCK and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        magic, made_from, expected = _HEADER.unpack(stream.read(_HEADER.size))
        if magic == MAGIC and made_from != key.fingerprint:
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
                self._count()  # other processes write, too
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
        """See `FeatureCache`; removes other extractors' folders, the one opened longest ago first."""
        others = [path for path in cache_folders(self.folder) if path != self._own]
        for path in sorted(others, key=opened_at):
            if self._capacity() >= wanted:
                break
            log.info("feature cache: %s makes room", path)
            remove_cache(path)
            self._count()
        return self._capacity()

    def room(self) -> tuple[int, str]:
        """See `FeatureCache`."""
        existing = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        held = sum(size_of(path) for path in cache_folders(self.folder))
        return held + max(0, shutil.disk_usage(existing).free - _RESERVE), str(self.folder)

    def _capacity(self) -> int:
        return self._room + size_of(self._own)

    def path(self, key: CacheKey) -> Path:
        """The file of a key."""
        name = key.key.hex()
        return self._own / name[:2] / name[2:]

    def _write(self, path: Path, key: CacheKey, row: NDArray[np.uint8]) -> bool:
        temporary = path.with_name(f"{path.name}.{self._unique}-{next(self._numbers)}.tmp")
        try:
            with open(temporary, "xb") as stream:
                stream.write(_HEADER.pack(MAGIC, key.fingerprint, xxhash.xxh3_64_intdigest(row.data)))
                stream.write(row.data)
            os.replace(temporary, path)
        except FileNotFoundError:  # somebody has removed the folder, to make room perhaps
            with contextlib.suppress(OSError, UserError):
                self._make()
            self._count()
            return False
        except OSError as error:  # the disk is full, say
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: OSError | UnwritableError) -> None:
        """Store nothing from now on: features are only a saving."""
        text = str(unwritable_error(self.folder, error) if isinstance(error, OSError) else error)
        log.warning("feature cache: %s; going on without storing", text)
        self._room, self._writable = 0, False

    def _count(self) -> None:
        """Learn how much there is, and after how many files of our own to look again."""
        used = sum(size_of(path) for path in cache_folders(self.folder))
        try:
            on_disk = shutil.disk_usage(self.folder).free - _RESERVE
        except OSError:  # somebody has removed the folder
            on_disk = 0
        self._room = max(0, min(self.budget - used, on_disk))
        self._unwritten = self._room // self._file_bytes // 16 + 1
