"""Command lines as people write them, in the words Hydra understands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser


def to_overrides(arguments: Sequence[str], key: str) -> list[str]:
    """Gather the words that are no `key=value` as a list under `key`, and quote values where Hydra wants it.

    `a b by=x,y --cfg job` becomes `key=['a','b'] by='x,y' --cfg job`. Hydra's options and their values
    stay; a value that is quoted or a list already does, too.
    """
    given = get_args_parser().parse_args(list(arguments)).overrides
    words = [word for word in given if "=" not in word or Path(word).is_dir()]
    kept = [_quoted_value(a) if a in given else a for a in arguments if a not in words]
    # first: argparse takes no words after an option once it has taken some before it
    return [f"{key}=[{','.join(map(_quoted, words))}]", *kept] if words else kept


def _quoted_value(override: str) -> str:
    name, _, value = override.partition("=")
    return (
        f"{name}={_quoted(value)}" if re.search(r"[=,\s()]", value) and value[0] not in "'\"[{" else override
    )


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return f"'{escaped}'"
