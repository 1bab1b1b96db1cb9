"""`--help` of a command: its configuration file with the comments, and the choices of its groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_BLOCK = r"^{}:\n(?:[ #].*\n|\n(?=[ #]))*"  # a key at the left margin, and what is below it


def help_text(config_name: str, conf_dir: Path) -> str:
    """Lay out `conf/<config_name>.yaml` for the terminal."""
    text = (conf_dir / f"{config_name}.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text).get("defaults", [])
    for block in ("defaults", "hydra"):
        text = re.sub(_BLOCK.format(block), "", text, flags=re.MULTILINE)
    head = re.match(r"(?:#.*\n)*", text)
    assert head is not None
    about, options = re.sub(r"^# ?", "", head[0], flags=re.MULTILINE), text[head.end() :].strip("\n")
    parts = [about.rstrip(), f"Options (key=value), with their defaults:\n\n{options}"]
    if choices := list(_choices(defaults, conf_dir)):
        parts.append("Choices (group=choice; null: none), with their defaults:\n\n" + "\n".join(choices))
    if "train" in defaults:
        parts.append("Every option and choice of training as well: python -m roiseg.train --help")
    parts.append(
        f"All keys and values, without running: python -m roiseg.{config_name} --cfg job\n"
        "Tracebacks instead of one-line errors: HYDRA_FULL_ERROR=1"
    )
    return "\n\n".join(parts)


def _choices(defaults: list[Any], conf_dir: Path) -> Iterator[str]:
    for entry in (entry for entry in defaults if isinstance(entry, dict)):
        ((group, chosen),) = entry.items()
        if group == "hydra":
            continue
        folders = [conf_dir / group, *sorted(path for path in (conf_dir / group).rglob("*") if path.is_dir())]
        for folder in folders:
            names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            default = f" [{_default(chosen)}]" if folder == folders[0] else ""
            yield f"  {folder.relative_to(conf_dir).as_posix()}{default}: {names}"


def _default(chosen: Any) -> str:
    if chosen is None:
        return "null"
    return ",".join(chosen) if isinstance(chosen, list) else str(chosen)
