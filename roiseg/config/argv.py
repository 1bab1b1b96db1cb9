"""The command line: its words in Hydra's grammar, and `--help`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException

from roiseg.common.package_files import package_file
from roiseg.config.private_api import parse_command_line, raw_value

CONF_DIR = package_file("conf")


def own_conf_dir() -> Path | None:
    """Return `conf/` of the working directory, which adds choices to those of roiseg, if there is one."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and not folder.samefile(CONF_DIR) else None


# keys whose value is a name or a path even if it resembles a number: `source=2024` is a folder
_TEXTS = re.compile(
    r"(.*\.)?(annotations|base_url|baseline|boxes|by|check|ckpt|compare|host|label|metric|onnx|output|root|runs"
    r"|source|tensors|test|dir|\w+_(dir|metric|path)|data\.(train|val)_(annotations|images))"
)


def quote_overrides(
    arguments: Sequence[str], key: str | None = None, others: Collection[str] = ()
) -> list[str]:
    """Quote the values of a command line where Hydra needs it, and collect its plain words in a list.

    `a b by=x,y --cfg job` becomes `key=['a','b'] by='x,y' --cfg job`. Hydra's options and their values stay.

    Args:
        key: of the list that takes the words that are not `key=value`; None: such words stay.
    """
    options = parse_command_line(arguments)
    sweeps = options.multirun or any(word.startswith("hydra.mode=") for word in options.overrides)
    words = [word for word in options.overrides if key is not None and not _is_override(word)]
    kept = [
        quote(word, others, sweeps) if word in options.overrides else word
        for word in arguments
        if word not in words
    ]
    if sweeps and any(_sweeps_group(word) for word in kept):
        kept = [_only_in_jobs(word) if "=" in word and word[0] != "-" else word for word in kept]
    # first: argparse takes no words after an option once it has taken some before it
    return [f"{key}=[{','.join(map(quoted, words))}]", *kept] if words else kept


def quote(override: str, others: Collection[str] = (), sweeps: bool = False) -> str:
    """Return `key=value` so that Hydra reads the intended value.

    The value of a key for names or paths is text unless it is null, is quoted already, is a list or, where
    the command `sweeps`, lists choices. What exists in the file system is always text. Any other value
    stays if Hydra can read it. `group=null` means no choice of a configuration group. A leading `~/` is
    the home folder.

    Args:
        override: a word of the command line.
        others: keys that are not for texts in this command, though named like such.
        sweeps: the command runs once for each combination of choices.
    """
    key, equals, value = override.partition("=")
    if is_below_home(value):
        value = os.path.expanduser(value)
        override = f"{key}={value}"
    name = key.lstrip("+~").partition("@")[0]
    if not equals or not value:
        return override
    if "null" in (choices := value.split(",")) and (CONF_DIR / name).is_dir():  # Hydra's word for no choice
        return f"{key}={','.join('[]' if choice == 'null' else choice for choice in choices)}"
    read = _read(override)
    if read and (CONF_DIR / name).is_dir():  # choices are texts
        chosen = read.value()
        if isinstance(chosen, (bool, int, float)):
            return f"{key}={quoted(value)}"
        if isinstance(chosen, list) and not all(isinstance(item, str) for item in chosen):
            return f"{key}=[{','.join(quoted(str(item)) for item in chosen)}]"
    if name in others or not _TEXTS.fullmatch(name):
        return override if read or value[0] in "[{'\"" else f"{key}={quoted(value)}"
    if read and read.value() == value and "${" not in value:  # as it is
        return override
    if _exists(value):
        return f"{key}={quoted(literal(value))}"
    if read and _is_syntax(read, sweeps):
        return override
    return f"{key}={quoted(value)}"


def _sweeps_group(word: str) -> bool:
    read = _read(word) if "=" in word else None
    return read is not None and read.is_sweep_override() and (CONF_DIR / read.key_or_group).is_dir()


def _only_in_jobs(word: str) -> str:
    """Write a fixed `key=value` as a sweep over one value.

    Hydra composes fixed words once without the swept groups, one of which may define the key:
    `model=pyramid,pyramid_small model.margin=2`.
    """
    read = _read(word)
    if read is None or read.is_sweep_override() or read.type != OverrideType.CHANGE:
        return word
    key, _, value = word.partition("=")
    if key.startswith("hydra") or (CONF_DIR / key.partition("@")[0]).is_dir():
        return word
    sweep = _read(f"{key}=choice({value})")
    jobs = [_read(f"{key}={text}") for text in sweep.sweep_string_iterator()] if sweep else []
    same = len(jobs) == 1 and jobs[0] is not None and jobs[0].value() == read.value()
    return f"{key}=choice({value})" if same else word  # null has no such form


def is_below_home(value: str) -> bool:
    """Return whether a value is the home folder, or a path in it, as a shell reads it."""
    return value == "~" or value.startswith("~/")


def _is_override(word: str) -> bool:
    deletes = word.startswith("~") and not is_below_home(word)
    return ("=" in word or deletes) and not _exists(word) and not any(glob.iglob(os.path.expanduser(word)))


def _exists(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))


def _read(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _is_syntax(override: Override, sweeps: bool) -> bool:
    """Return whether the value is meant to be Hydra's grammar."""
    value: Any = raw_value(override)
    return (
        value is None
        or isinstance(value, (QuotedString, list, dict))
        or (sweeps and override.is_sweep_override())
    )


def literal(text: str) -> str:
    """Escape interpolations in a value."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def quoted(text: str) -> str:
    """Return a text so that Hydra reads it unchanged."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = re.search(r"\\*$", escaped)
    return f"'{escaped}{trailing[0] if trailing else ''}'"


_BLOCK = r"^{}:\n(?:[ #].*\n|\n(?=[ #]))*"  # a key at the left margin, and what is below it


def help_text(config_name: str) -> str:
    """Lay out `conf/<config_name>.yaml` for the terminal."""
    text = (CONF_DIR / f"{config_name}.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text).get("defaults", [])
    for block in ("defaults", "hydra"):
        text = re.sub(_BLOCK.format(block), "", text, flags=re.MULTILINE)
    head = re.match(r"(?:#.*\n)*", text)
    assert head is not None
    about, options = re.sub(r"^# ?", "", head[0], flags=re.MULTILINE), text[head.end() :].strip("\n")
    parts = [about.rstrip(), f"Options (key=value), with their defaults:\n\n{options}"]
    if choices := list(_choices(defaults)):
        parts.append("Choices (group=choice; null: none), with their defaults:\n\n" + "\n".join(choices))
    if "train" in defaults:
        parts.append("Every option and choice of training as well: python -m roiseg.train --help")
    parts.append(
        f"All keys and values, without running: python -m roiseg.{config_name} --cfg job\n"
        "Tracebacks instead of one-line errors: HYDRA_FULL_ERROR=1"
    )
    return "\n\n".join(parts)


def _choices(defaults: list[Any]) -> Iterator[str]:
    own = own_conf_dir()
    for entry in (entry for entry in defaults if isinstance(entry, dict)):
        ((group, chosen),) = entry.items()
        if group == "hydra":
            continue
        folders = [CONF_DIR / group, *sorted(path for path in (CONF_DIR / group).rglob("*") if path.is_dir())]
        for folder in folders:
            name = folder.relative_to(CONF_DIR)
            files = [*folder.glob("*.yaml"), *((own / name).glob("*.yaml") if own else ())]
            default = f" [{_default(chosen)}]" if folder == folders[0] else ""
            yield f"  {name.as_posix()}{default}: {', '.join(sorted({path.stem for path in files}))}"


def _default(chosen: Any) -> str:
    if chosen is None:
        return "null"
    return ",".join(chosen) if isinstance(chosen, list) else str(chosen)
