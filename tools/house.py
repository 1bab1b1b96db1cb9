"""`python -m tools.house`: the size of the code base, as a Markdown table.

Two figures need a run: a small training on synthetic images is traced, and the files whose functions were
called are counted.
"""

from __future__ import annotations

import ast
import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

ROOT = Path(__file__).parents[1]
SOURCES = ("roiseg", "callbacks")
_PREFIXES = tuple(f"{ROOT / name}/" for name in SOURCES)


def sources(*folders: str, suffix: str = ".py") -> dict[Path, int]:
    """Return the non-empty files with a suffix below folders of the checkout, with their numbers of lines."""
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}")))
    return {path: lines for path in files if (lines := len(path.read_text("utf-8").splitlines()))}


def raises(files: dict[Path, int]) -> float:
    """Return the number of `raise` statements per 1,000 lines."""
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return sum(isinstance(node, ast.Raise) for node in nodes) / sum(files.values()) * 1000


def composed() -> tuple[int, int]:
    """Return the number of yaml files and of leaf keys of the default training's configuration."""
    from omegaconf import OmegaConf

    from roiseg.config.compose import compose_run
    from roiseg.reporting.runs import flatten

    opened: set[str] = set()

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(ROOT / "conf")):
            opened.add(str(arguments[0]))

    sys.addaudithook(record)
    config = OmegaConf.to_container(compose_run(ROOT / "outputs" / "house"))
    assert isinstance(config, dict)
    return len(opened), len(flatten({str(key): value for key, value in config.items()}))


class Trace(L.Callback):
    """Collects the files of the package whose functions are called.

    Attributes:
        run: files of the whole run.
        step: files from the start of the first epoch to the end of its first step.
    """

    def __init__(self) -> None:
        self.run: set[Path] = set()
        self.step: set[Path] = set()
        self._in_step = False

    def record(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note the file of a called function; the form is that of `sys.settrace`."""
        if frame.f_code.co_filename.startswith(_PREFIXES) and frame.f_code.co_name != "<module>":
            for paths in (self.run, self.step) if self._in_step else (self.run,):
                paths.add(Path(frame.f_code.co_filename))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start collecting the files of a step."""
        self._in_step = trainer.current_epoch == 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop collecting the files of a step."""
        self._in_step = False


def traced_training() -> Trace:
    """Trace a training of one epoch with overlays, test and ONNX export on a few synthetic images."""
    from roiseg import train
    from roiseg.config import build
    from roiseg.config.compose import compose_run

    trace = Trace()
    callbacks = build.build_callbacks
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        overrides = (
            f"paths.data_dir={folder}/data", f"paths.index_dir={folder}/index", "logger=csv",
            "trainer.max_epochs=1", "trainer.accelerator=cpu", "callbacks.progress=null",
            "data.num_workers=0", "data.source.train_images=16", "data.source.val_images=4",
        )  # fmt: skip
        config = compose_run(f"{folder}/run", *overrides)
        build.build_callbacks = lambda cfg: [*callbacks(cfg), trace]
        before = sys.gettrace()  # of a test's coverage
        sys.settrace(trace.record)
        try:
            train.train(config)
        finally:
            sys.settrace(before)
            build.build_callbacks = callbacks
    return trace


def figures() -> dict[str, str]:
    """Return every figure of the table by its label."""
    code, tests, yaml = sources(*SOURCES), sources("tests"), sources("conf", suffix=".yaml")
    lines = sum(code.values())
    page = sum(sum(sources("roiseg/web/static", suffix=kind).values()) for kind in (".js", ".css", ".html"))
    trace, (files, keys) = traced_training(), composed()
    commands = [path for path in (ROOT / "roiseg").glob("*.py") if "__main__" in path.read_text("utf-8")]
    packages = [path for path in (ROOT / "roiseg").rglob("__init__.py") if path.parent != ROOT / "roiseg"]

    def size(paths: set[Path]) -> str:
        return f"{len(paths)}; {sum(code.get(path, 0) for path in paths):,}"

    return {
        "Python files in roiseg and callbacks; lines": f"{len(code)}; {lines:,}",
        "median lines per file; longest file": f"{statistics.median(code.values()):g}; {max(code.values())}",
        "files run by one training step; their lines": size(trace.step),
        "files run by a whole training with overlays and ONNX export; their lines": size(trace.run),
        "commands; packages": f"{len(commands)}; {len(packages)}",
        "yaml files; composed by the default run; keys": f"{len(yaml)}; {files}; {keys}",
        "raises per 1,000 lines": f"{raises(code):.1f}",
        "test lines per line of Python; the page's JavaScript, CSS and HTML counted as code, too": (
            f"{sum(tests.values()) / lines:.2f}; {sum(tests.values()) / (lines + page):.2f}"
        ),
        "README words": f"{len((ROOT / 'README.md').read_text('utf-8').split()):,}",
    }


def main() -> None:
    """Print the table."""
    print("| figure | value |\n| --- | --- |")
    for label, value in figures().items():
        print(f"| {label} | {value} |")


if __name__ == "__main__":
    main()
