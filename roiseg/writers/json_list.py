"""A json list that is written while it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roiseg.common.files import atomic_path, open_text


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield a function that adds an item, a line each; the file is whole when the block ends, or absent."""
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        before = "[\n"

        def add(item: Any) -> None:
            nonlocal before
            stream.write(before + json.dumps(item, allow_nan=False, ensure_ascii=False))
            before = ",\n"

        yield add
        stream.write("[]\n" if before == "[\n" else "\n]\n")
