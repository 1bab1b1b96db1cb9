"""Store parsed annotations in one file that all processes map into memory and share.

The file consists of a magic number with the format version, the length of the header, the header (json: the
source and the layout of the arrays), the arrays, and the XXH3 checksum of everything before it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, content_digest, home_path
from roiseg.data.annotations import Annotations

log = logging.getLogger(__name__)

_NAME, _FORMAT = b"roiseg annotations ", b"0002"  # raise it to invalidate older files
_MARK = _NAME + _FORMAT
_ALIGN = 64  # bytes
_DIGEST = 8  # bytes
_BLOCK = 1 << 20  # bytes read at a time for the checksum, which maps no pages


@dataclass(frozen=True, kw_only=True)
class IndexedAnnotations(Annotations):
    """Annotations whose arrays are mapped from an index; pickled as the path of that file."""

    index: Path
    digest: bytes  # of the content

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.index, self.digest)


def _reopen(path: Path, index: Path, digest: bytes) -> IndexedAnnotations:
    changed = UserError(f"the annotation index {index} changed while it was in use: start again")
    try:
        with open(index, "rb") as stream:
            opened = _map(path, index, stream)
    except (OSError, ValueError):
        raise changed from None
    if opened.digest != digest:
        raise changed
    return opened


@dataclass(frozen=True)
class _State:
    """What an index is valid for."""

    source: str  # absolute path of the annotation file
    content: str  # XXH3 of its bytes
    category_id: int
    crowd: str
    reader: str  # its repr


class Index:
    """The index of one annotation file in its current state."""

    def __init__(self, path: Path, state: _State, index_dir: Path) -> None:
        self.path = path
        self.state = state
        place = xxhash.xxh3_64_hexdigest(os.fsencode(state.source))
        self.file = index_dir / f"{path.stem[:80]}_{state.category_id}_{state.crowd}_{place}.index"

    @classmethod
    def of(cls, path: Path, category_id: int, crowd: str, reader: str, index_dir: str | Path) -> Index:
        """Return the index of the file as it is now; call it before the file is read."""
        state = _State(os.path.abspath(path), content_digest(path).hex(), category_id, crowd, reader)
        return cls(path, state, home_path(index_dir))

    def open(self) -> IndexedAnnotations | None:
        """Return the annotations; None if the index is missing, out of date or damaged."""
        try:
            with open(self.file, "rb") as stream:
                if _header(stream)["state"] != asdict(self.state):
                    return None
                _check(stream)
                return _map(self.path, self.file, stream)
        except (FileNotFoundError, _OtherFormat):
            return None
        except ValueError as error:
            log.warning("annotation index %s is damaged (%s): reading %s again", self.file, error, self.path)
        except OSError as error:
            log.info("annotation index %s cannot be read: %s", self.file, error.strerror)
        return None

    def write(self, annotations: Annotations) -> Annotations:
        """Write the index and return the annotations mapped from it, or the given ones on failure."""
        try:
            with atomic_path(self.file, _is_index) as temporary, open(temporary, "wb") as stream:
                digest = xxhash.xxh3_64()
                for block in _blocks(annotations, self.state):
                    digest.update(block)
                    stream.write(block)
                stream.write(digest.digest())
            with open(self.file, "rb") as stream:
                return _map(self.path, self.file, stream)
        except (UserError, OSError, ValueError) as error:
            log.info("no annotation index (%s): every run parses %s", error, self.path)
            return annotations


def _is_index(path: Path) -> bool:
    """Tell whether a file starts like an index of any version, even if truncated or slightly damaged."""
    with open(path, "rb") as stream:
        head = stream.read(len(_NAME))
    return sum(a != b for a, b in zip(head, _NAME, strict=False)) <= len(head) // 4


class _OtherFormat(ValueError):
    """The file has another format version."""


def _blocks(annotations: Annotations, state: _State) -> Iterator[bytes | memoryview]:
    """Yield the content of the file without the checksum."""
    arrays = {f.name: getattr(annotations, f.name) for f in fields(Annotations)}
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items() if isinstance(a, np.ndarray)}
    layout = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    content = {"state": asdict(state), "warnings": annotations.warnings, "arrays": layout}
    header = json.dumps(content).encode()
    header += b" " * (-(len(_MARK) + 8 + len(header)) % _ALIGN)
    yield _MARK + len(header).to_bytes(8, "little") + header
    for array in arrays.values():
        yield array.tobytes() + bytes(-array.nbytes % _ALIGN)


def _header(stream: BinaryIO) -> dict[str, Any]:
    """Return the header with the `start` of the arrays; raise ValueError if it is invalid."""
    stream.seek(0)
    mark = stream.read(len(_MARK))
    if mark.startswith(_NAME) and mark != _MARK:
        raise _OtherFormat
    length, content = int.from_bytes(stream.read(8), "little"), None
    if mark == _MARK and length <= _size(stream):
        with contextlib.suppress(RecursionError):
            content = json.loads(stream.read(length))
    if not isinstance(content, dict) or not {"state", "warnings", "arrays"} <= content.keys():
        raise ValueError("its header is wrong")
    return {**content, "start": stream.tell()}


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _check(stream: BinaryIO) -> None:
    """Raise ValueError if the checksum does not match."""
    stream.seek(0)
    digest, left = xxhash.xxh3_64(), _size(stream) - _DIGEST
    while left > 0 and (block := stream.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    if stream.read() != digest.digest():
        raise ValueError("its checksum does not match")


def _map(path: Path, file: Path, stream: BinaryIO) -> IndexedAnnotations:
    """Map the annotations of an index; arrays are read from the file when they are used."""
    header = _header(stream)
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    arrays, offset = {}, header["start"]
    try:
        for name, (dtype, shape) in header["arrays"].items():
            flat = np.frombuffer(mapped, dtype, math.prod(shape), offset)
            arrays[name] = flat.reshape(shape)
            offset += -(-flat.nbytes // _ALIGN) * _ALIGN
        annotations = IndexedAnnotations(
            path=path, warnings=tuple(header["warnings"]), index=file, digest=mapped[-_DIGEST:], **arrays
        )
        _check_arrays(annotations)
    except (AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"its header is wrong: {error}") from None
    if offset != len(mapped) - _DIGEST:
        raise ValueError("its arrays do not match its header")
    return annotations


def _check_arrays(annotations: IndexedAnnotations) -> None:
    """Raise ValueError if an array has another type or shape than `Annotations` says."""
    images, instances = len(annotations.image_ids), len(annotations.ids)
    layout = {
        "image_ids": ("i", (images,)),
        "file_names": ("U", (images,)),
        "sizes": ("i", (images, 2)),
        "pixel_sizes": ("f", (images,)),
        "first": ("i", (images + 1,)),
        "ids": ("i", (instances,)),
        "boxes": ("f", (instances, 4)),
        "crowd": ("b", (instances,)),
        "parts": ("i", (instances + 1,)),
        "part_ends": ("i", (len(annotations.part_ends),)),
        "points": ("f", (len(annotations.points), 2)),
        "runs": ("u", (len(annotations.runs),)),
        "run_ends": ("i", (instances + 1,)),
    }
    for name, (kind, shape) in layout.items():
        array = getattr(annotations, name)
        if array.dtype.kind != kind or array.shape != shape:
            raise ValueError(f"its array `{name}` has shape {list(array.shape)} of {array.dtype}")
