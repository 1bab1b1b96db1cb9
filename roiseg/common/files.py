"""Atomic writes, json with clear errors, paths and digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO, runtime_checkable

import xxhash

from roiseg.common.errors import UserError, disk_full, unwritable_error
from roiseg.common.outputs import Proof, check_replaceable, in_own_folder, note_input, record


def normal_name(name: str) -> str:
    """Normalize a name: `/` between parts, composed letters (NFC), no `.` and no empty parts."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def ends_alike(a: str, b: str) -> bool:
    """Tell whether one of two normal names ends with the other, in whole parts."""
    return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")


def image_path(folder: Path, name: str) -> Path:
    """Return the file of this name below a folder in any Unicode form; the literal path if there is none."""
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


def home_path(path: str | Path) -> Path:
    """Expand a leading `~` or `~user`; the path of an unknown user is returned unchanged."""
    return Path(os.path.expanduser(path))


@runtime_checkable
class DataSource(Protocol):
    """Something that can create its files.

    Attributes:
        made: where the files come from and when, to be shown.
    """

    made: str

    def makes(self, path: str | Path) -> bool:
        """Tell whether `path` is one of its files."""

    def ensure(self) -> Any:
        """Create what is missing."""


@contextmanager
def atomic_path(path: str | Path, proof: Proof | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without error.

    The folder is created if it is missing. The temporary name keeps the suffix, for writers that choose the
    format by suffix. After an error the temporary file is removed and `path` is unchanged.

    Args:
        proof: allows replacing an existing file, see `roiseg.common.outputs`.

    Raises:
        UnwritableError: the disk is full, the folder is read-only, and the like.
        UserError: a file exists that must not be replaced.
    """
    path = Path(path)
    check_replaceable(path, proof)
    with _name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
    temporary = folder / f".{path.name}"
    try:
        with _name_file_in_errors(path):
            (folder / _ABOUT).write_text(_about(folder), encoding="utf-8")
            temporary.touch()
            try:
                yield temporary
            except Exception as error:
                if not isinstance(
                    error, (OSError, UserError)
                ):  # a library's own, which hides the system error
                    check_room(path.parent)
                raise
            check_replaceable(path, proof)  # again, since the block may take hours
            if proof is None and not in_own_folder(path):
                record(path, temporary)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn system errors in the block into errors that name the file that cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, about the content
            raise
        about = Path(error.filename or path).absolute()
        place = path.absolute()
        if disk_full(error) or about.parent == place.parent or place.is_relative_to(about):
            raise unwritable_error(path, error) from error
        raise  # about another file, such as one that is read


def check_room(folder: Path, size: int = 1 << 20) -> None:
    """Check that there is disk space by writing `size` bytes to a temporary file.

    For libraries that do not report why, or that, a write failed.

    Raises:
        OSError: there is no space.
    """
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(bytes(size))
        stream.flush()
        os.fsync(stream.fileno())


def remove_leftovers(*folders: Path) -> None:
    """Remove temporary files in `folders` that a killed process left in `atomic_path`.

    Only for folders that no other process writes to.
    """
    for folder in folders:
        for parent, names, _ in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                if is_leftover(path):
                    shutil.rmtree(path, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Tell whether `path` is a temporary folder of `atomic_path`, proved by its content.

    Its process may be killed, or still be writing, at any point: the folder may be empty or say only the
    beginning of what it is for.
    """
    if path.is_symlink() or not path.is_dir() or not path.name.startswith(_PREFIX):
        return False
    try:
        names = {entry.name for entry in path.iterdir()}
        said = (path / _ABOUT).read_text(encoding="utf-8") if _ABOUT in names else ""
    except (OSError, ValueError):
        return False
    return said == _about(path) or (names <= {_ABOUT} and _about(path).startswith(said))


def _about(folder: Path) -> str:
    return f"roiseg writes a file here, then moves it one folder up: {folder.name}\n"


_PREFIX, _ABOUT = ".roiseg-", ".about"  # of a temporary folder


def open_text(path: Path) -> TextIO:
    """Open a file to write UTF-8; characters that cannot be encoded are escaped as in json."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def as_utf8(text: str) -> str:
    """Return a text that UTF-8 can encode; other characters are escaped as in json."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Yield an absolute path for C++ libraries; if the name is not valid UTF-8, a link to it.

    FFmpeg interprets relative names such as `tcp:host:port` as addresses.
    """
    path = path.absolute()
    if as_utf8(str(path)) == str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"link{as_utf8(path.suffix)}")
        link.symlink_to(path)
        yield str(link)


def write_json(path: str | Path, content: Any, proof: Proof | None = None) -> Path:
    """Write `content` as indented json, see `atomic_path`; returns the path."""
    path = Path(path)
    with atomic_path(path, proof) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_json(path: str | Path, what: str, each: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse a json file.

    Args:
        what: what the file is, for the error message ("annotations", say).
        each: replaces every object as soon as it is parsed.

    Raises:
        UserError: the file is missing, not readable, or not json (with line and column).
    """
    path = _readable_file(path, what)
    try:
        return json.loads(path.read_bytes(), object_hook=each)
    except (ValueError, RecursionError) as error:  # also not text, endless digits, nested too deep
        raise UserError(f"{what} file {path} is not valid json ({error}): create it again") from None


def require_file(path: str | Path | None, what: str, hint: str = "") -> Path:
    """Return `path` as a Path to a readable file, or raise a UserError that names the existing part.

    The file is registered as an input of the command, which no output may replace.
    """
    path = _readable_file(path, what, hint)
    note_input(path)
    return path


def _readable_file(path: str | Path | None, what: str, hint: str = "") -> Path:
    path = _existing(path, f"{what} file", hint)
    if path.is_file() and os.access(path, os.R_OK):
        return path
    if path.is_file():
        wrong = "cannot be read: check its permissions"
    else:
        wrong = "is a folder; give the file itself" if path.is_dir() else f"is {NOT_REGULAR}: give a file"
    raise UserError(f"{what} file {path} {wrong}")


def _existing(path: str | Path | None, what: str, hint: str) -> Path:
    if path is None or str(path) == "":
        raise UserError(f"{what} is not set{': ' + hint if hint else ''}")
    path = home_path(path)
    if not path.exists():
        raise UserError(f"{what} not found: {path} ({_deepest(path)}){'; ' + hint if hint else ''}")
    return path


NOT_REGULAR = "a pipe, a socket or a device, not a regular file"


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, without blocking on a pipe.

    Raises:
        OSError: it cannot be opened, or is a pipe, a socket or a device, whose reading may never end.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # Python itself refuses a folder
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path))


def require_dir(path: str | Path | None, what: str, hint: str = "") -> Path:
    """Return `path` as a Path to a folder, or raise a UserError that names the existing part."""
    path = _existing(path, f"{what} folder", hint)
    if not path.is_dir():
        raise UserError(f"{what} folder {path} is a file; give the folder")
    return path


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Return those of `names` (relative to `folder`) that are not files; every folder is listed once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in listed:
            below = folder / parent
            listed[parent] = set(os.listdir(below)) if os.path.isdir(below) else set()
        # a file system may fold cases
        if base not in listed[parent] and not os.path.isfile(image_path(folder, name)):
            missing.append(name)
    return missing


def _deepest(path: Path) -> str:
    for parent in path.absolute().parents:
        if parent.is_dir():
            return f"{parent} exists, the rest does not"
    return "no part of it exists"


def written_at(path: Path) -> int:
    """Return when a file was last written in nanoseconds; 0 if another process has removed it."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def content_digest(path: str | Path) -> bytes:
    """Return the XXH3 (128 bits) of a file's bytes, which identifies the source of cached data.

    A process reads a file once while its size, times and inode stay the same. Size and time alone are not
    enough, since programs that copy or unpack set them.
    """
    state = os.stat(path)
    known = (os.fspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    if known in _DIGESTS:
        return _DIGESTS[known]
    digest = xxhash.xxh3_128()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if time.time_ns() - state.st_ctime_ns > _COARSE:
        _DIGESTS[known] = digest.digest()
    return digest.digest()


_DIGESTS: dict[tuple[str, int, int, int, int], bytes] = {}
_COARSE = 2 * 10**9  # ns within which two changes may get the same file time


def file_digest(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
