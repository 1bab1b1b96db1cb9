"""Start a command: Hydra composes; mistakes of the user end in one line and exit code 2."""

from __future__ import annotations

import functools
import io
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roiseg.common.console import flush_output, print_text
from roiseg.common.errors import UserError, closest_matches, missing_extra
from roiseg.common.outputs import absent_folders, purpose, remove_empty
from roiseg.common.precision import fastest_precision
from roiseg.common.signals import stoppable
from roiseg.config.argv import CONF_DIR, help_text, is_below_home, own_conf_dir, quote_overrides
from roiseg.config.private_api import parse_command_line
from roiseg.config.resource_errors import resource_error_message


def _run_name(output_dir: Any) -> str:
    """Name the run that writes to `output_dir` by its last part; in a sweep with the sweep's before it."""
    path = Path(str(output_dir))  # validation tells a wrong type
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return f"{path.parent.name}_{path.name}" if in_sweep else path.name


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("fastest_precision", fastest_precision, replace=True)


def command(
    config_name: str,
    words: str | None = None,
    prepare: Callable[[list[str]], None] | None = None,
    kept: Callable[[DictConfig], str] | None = None,
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorate `task(cfg)` into a command-line program configured by `conf/<config_name>.yaml`.

    A `UserError`, or a mistake Hydra finds while composing, is printed as one line on stderr and
    ends the process with code 2. With `HYDRA_FULL_ERROR=1` the traceback is shown instead. SIGINT and
    SIGTERM end it cleanly, with one line and code 130 or 143. What the terminal cannot show is escaped.

    Args:
        config_name: of the configuration, and of the program.
        words: key of the list that collects words of the command line other than `key=value`, if any.
        prepare: called with the command line before anything is composed.
        kept: describes what remains of the task's work when a resource runs out.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            try:
                with purpose(config_name):
                    # with interpolations as they were given
                    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
                    clear_left_out(cfg, words)
                    expand_home(cfg)
                    check_groups(cfg, config_name)
                    return task(cfg)
            except Exception as error:
                line = user_message(error)
                if line is None or _full_error():
                    raise
                if kept is not None and resource_error_message(error):
                    line = f"{line}; {kept(cfg)}"
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs of the sweep continue
                    raise UserError(line) from None
                _fail(line)
            finally:
                RunFolder.remove_if_empty()

        @functools.wraps(task)
        def main() -> Any:
            try:
                with stoppable(lambda: "no file is left half-written"):
                    return run()
            finally:
                flush_output()

        def run() -> Any:
            full_error = _full_error()
            try:
                result = start(full_error)
                print(end="", flush=True)
                return result
            except BrokenPipeError:
                if flush_output("\n"):  # it was another pipe
                    raise
            except Exception as error:
                line = user_message(error, config_name)
                if line is None or full_error:
                    raise
                _fail(line)

        def start(full_error: bool) -> Any:
            if {"--help", "-h"} & set(sys.argv[1:]):
                print_text(help_text(config_name))
                return None
            if isinstance(sys.stdout, io.TextIOWrapper):  # a name may not be UTF-8, or the terminal may not
                sys.stdout.reconfigure(errors="backslashreplace")
            threading.excepthook, sys.unraisablehook = _background_error, _error_of_removal
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise, so that its errors can be reworded
            sys.argv[1:] = quote_overrides(sys.argv[1:], words, numeric_keys(config_name))
            os.environ[_USER_FULL_ERROR] = str(int(full_error))
            if prepare is not None:
                prepare(sys.argv[1:])
            own = own_conf_dir()
            if own is not None and parse_command_line(sys.argv[1:]).config_dir is None:
                sys.argv[1:1] = ["--config-dir", str(own)]
            return hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(job)()

        return main

    return decorate


def numeric_keys(config_name: str) -> set[str]:
    """Return the keys of a command, outside groups, whose default is a number or a boolean."""
    keys: dict[str, Any] = {}
    for name in ("train", config_name):
        keys |= yaml.safe_load((CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key for key, value in keys.items() if isinstance(value, (bool, int, float))}


def clear_left_out(cfg: DictConfig, words: Sequence[str]) -> None:
    """Remove the options of groups that were left out with `group=null`, which an experiment may have set.

    Args:
        words: overrides as Hydra got them, in which `group=null` is `group=[]`.
    """
    for word in words:
        group, _, choice = word.partition("=")
        if choice == "[]" and (CONF_DIR / group.partition("@")[0]).is_dir():
            key = group.rpartition("@")[2].replace("/", ".")
            node = OmegaConf.select(cfg, key)
            if isinstance(node, DictConfig):
                _clear(cfg, key, node)


def _clear(cfg: DictConfig, key: str, node: DictConfig) -> None:
    """Replace a node that builds nothing by null, or such nodes in one that does."""
    if "_target_" not in node:
        OmegaConf.update(cfg, key, None)
        return
    for name, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig) and "_target_" not in value:
            OmegaConf.update(cfg, f"{key}.{name!s}", None)


def expand_home(cfg: DictConfig) -> None:
    """Replace a leading `~/` in values by the home folder, for paths in configuration files and in lists."""

    def expand(node: Any, plain: Any) -> None:
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            if isinstance(value, (dict, list)):
                expand(node[key], value)
            elif isinstance(value, str) and is_below_home(value):
                node[key] = os.path.expanduser(value)

    expand(cfg, OmegaConf.to_container(cfg, resolve=False))


def check_groups(cfg: DictConfig, config_name: str) -> None:
    """Check that no group that the command needs was left out with `group=null`.

    Raises:
        UserError: names the group and its choices.
    """
    for group in required_groups(config_name):
        if cfg.get(group) is None:
            choices = ", ".join(sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")))
            raise UserError(f"{group}=null leaves out what this command needs: choose one of {choices}")


def required_groups(config_name: str) -> list[str]:
    """Return the groups that a command chooses by default and that have no value without a choice."""
    content = yaml.safe_load((CONF_DIR / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups: list[str] = []
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            groups += [group for group, choice in entry.items() if choice and group not in content]
        elif entry != "_self_":
            groups += required_groups(entry)
    return [group for group in groups if group != "hydra"]


def _background_error(arguments: threading.ExceptHookArgs) -> None:
    """Ignore TensorBoard's thread, which fails on a full disk; the task's next write reports the cause."""
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(arguments)


def _error_of_removal(arguments: Any) -> None:
    """Ignore a torch loader that fails while it is deleted incomplete; the cause is already reported."""
    if "DataLoaderIter" not in repr(arguments.object):
        sys.__unraisablehook__(arguments)


class RunFolder(Callback):
    """Remove the folders that Hydra created for a run that wrote nothing."""

    made: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note which folders of the run do not exist yet."""
        hydra_config = HydraConfig.instance()
        before = hydra_config.cfg
        hydra_config.set_config(config)  # the folder's name is built from choices
        RunFolder.made = absent_folders(Path(config.hydra.run.dir))
        hydra_config.cfg = before

    @classmethod
    def remove_if_empty(cls) -> None:
        """Remove created folders that are empty; in a sweep the folder of the job."""
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            remove_empty([Path(HydraConfig.get().runtime.output_dir)])
        else:
            remove_empty(cls.made)


_USER_FULL_ERROR = "ROISEG_FULL_ERROR"


def _full_error() -> bool:
    return os.environ.get(_USER_FULL_ERROR, os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"


def _fail(line: str) -> None:
    sys.stderr.write(f"roiseg: error: {line}\n")
    sys.stderr.flush()
    raise SystemExit(2)


def user_message(error: BaseException, config_name: str = "train") -> str | None:
    """Return the line that tells the user what to fix, or None for an error of the program itself."""
    if isinstance(error, UserError):  # errors from loader processes contain their traceback
        return _one_line(str(error).strip().rpartition(f"{type(error).__name__}: ")[2])
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_choice(error)
    if isinstance(error, OverrideParseException):
        cause = _one_line(str(error).split("See https")[0])
        return (
            f"override `{error.override}` is not understood ({cause}): quote values with special characters"
        )
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_override(error, config_name)
    if isinstance(error, ValueError) and _raised_by_hydra(error):  # options that exclude each other
        return _one_line(str(error))
    line = _explain_processes(str(error)) if isinstance(error, RuntimeError) else None
    return line or resource_error_message(error)


def _raised_by_hydra(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("hydra.")


_LOGGER_EXTRAS = ("wandb", "mlflow")
_PLUGIN_EXTRAS = {
    "hydra/sweeper/optuna": "optuna", "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm", "hydra/launcher/submitit_slurm": "slurm",
}  # fmt: skip


def _explain_processes(text: str) -> str | None:
    """Explain errors of torch.distributed and submitit, which have no specific types."""
    if re.search(r"Connection (closed|reset) by peer|remote process (has )?(exited|terminated)", text):
        return "another process of this run failed, so this one stops: see its message"
    if "find_unused_parameters=True" in text:
        return (
            "a part of the model did not contribute to the loss, which several processes do not expect: "
            "set trainer.strategy.find_unused_parameters=true"
        )
    if 'Could not detect "srun"' in text:
        return "sweep=slurm needs SLURM's srun, which was not found: use a login node, or sweep=joblib"
    if job := re.match(r"Job \S+ \(task: \d+\).*?\(state: \w+\)", text, re.DOTALL):  # killed, say
        return f"{_one_line(job[0])}: see its log in the sweep's folder, .submitit"
    return None


def _explain_instantiation(error: InstantiationException) -> str | None:
    cause = error.__cause__
    if isinstance(cause, UserError):
        return _one_line(str(cause))
    text = str(error)
    key = re.search(r"full_key: (\S+)", text)
    where = f"configuration `{key.group(1)}`: " if key else "configuration: "
    logger = key.group(1).rpartition(".")[2] if key else ""
    if isinstance(cause, ImportError) and logger in _LOGGER_EXTRAS:
        return str(missing_extra(f"logger={logger}", logger))
    wrong = isinstance(cause, (TypeError, ValueError, ImportError))
    if wrong or cause is None or "Error locating target" in text:
        return where + _one_line(str(cause) if cause else text.split("full_key")[0])
    return user_message(cause)


def _explain_missing_choice(error: MissingConfigException) -> str:
    if error.missing_cfg_file is None:
        return _one_line(str(error))
    missing = error.missing_cfg_file
    group, _, choice = missing.rpartition("/")
    if missing in _PLUGIN_EXTRAS:
        return str(missing_extra(missing, _PLUGIN_EXTRAS[missing]))
    # Hydra names the choices of a group, but not those of a list, `writers=[a,b]`
    options = error.options or sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
    if not group or not options:
        return f"configuration file `{missing}` not found under {CONF_DIR}"
    if choice == "none":
        return f"no such choice: {group}=none; {group}=null leaves it out (choices: {', '.join(options)})"
    close = closest_matches(choice, options)
    hint = f"nearest: {', '.join(close)}; " if close and len(close) < len(options) else ""
    return f"no such choice: {group}={choice} ({hint}all: {', '.join(options)})"


def _explain_override(error: BaseException, config_name: str) -> str:
    text = str(error)
    if variable := re.search(r"Environment variable '(\w+)' not found", text):
        return f"environment variable {variable[1]} is not set: set it, or override the paths built from it"
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return _one_line(text.split("See https")[0])
    key = found.group(1)
    cause = str(error.__cause__ or "")
    if "is not in struct" not in cause and "not found" not in text and cause:
        return f"override `{key}`: {_one_line(cause)}"
    group = key.partition(".")[0]
    if f"{group}=[]" in sys.argv:  # what `quote_overrides` makes of group=null
        return f"no such configuration key: {key}, since {group}=null leaves the group out"
    close = closest_matches(key, _known_keys(config_name))
    hint = (
        f"nearest: {', '.join(close)}"
        if close
        else f"`python -m roiseg.{config_name} --cfg job` lists all keys"
    )
    return f"no such configuration key: {key} ({hint}; a new key needs a + before it)"


def _known_keys(config_name: str) -> list[str]:
    """Return all dotted keys of the default configuration of a command."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra  # a command may continue after a mistake
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        choices = [a for a in sys.argv[1:] if re.fullmatch(r"[a-z_]+=[\w/]+", a)]
        try:
            cfg = compose(
                config_name, overrides=[c for c in choices if (CONF_DIR / c.split("=")[0]).is_dir()]
            )
        except HydraException:
            cfg = compose(config_name)
    GlobalHydra.instance().hydra = running
    return list(_dotted_keys(OmegaConf.to_container(cfg)))


def _dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted_keys(value, f"{prefix}{key}.")


def _one_line(text: str) -> str:
    """Remove line breaks, and escape control characters, which a terminal would execute."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
