"""What a terminal shows while a model trains."""

import io
import logging

import lightning as L
from rich.console import Console
from rich.progress import Progress
from tiny_run import fit

from roiseg.callbacks.history import ProgressBar
from roiseg.common.console import StdoutHandler


def test_a_log_line_stands_on_a_line_of_its_own_above_a_progress_bar(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stdout", terminal)
    log = logging.getLogger("test of the handler")
    handler = StdoutHandler()  # before the bar, as the logging of a command
    log.addHandler(handler)
    try:
        with Progress(console=Console(file=terminal, force_terminal=True), auto_refresh=False) as bar:
            bar.add_task("working", total=2)
            bar.refresh()
            log.warning("a message")
    finally:
        log.removeHandler(handler)
    before, after = terminal.getvalue().split("a message")
    assert "working" in before and before.endswith("\x1b[2K")  # the bar's line is cleared first
    assert after.startswith("\n") and "working" in after  # the bar is drawn again below it


class Descriptions(L.Callback):
    """What a bar says at the start of each epoch."""

    def __init__(self, bar):
        self.bar, self.texts, self.metrics = bar, [], set()

    def on_train_epoch_start(self, trainer, pl_module):
        self.texts += [task.description.strip() for task in self.bar.progress.tasks if task.visible]
        self.metrics |= set(self.bar.get_metrics(trainer, pl_module))


def test_epochs_count_from_1_and_the_loggers_version_is_left_out(coco_set, onnx_file, tmp_path, capsys):
    bar = ProgressBar()
    seen = Descriptions(bar)
    fit(coco_set, onnx_file, tmp_path, [bar, seen], max_epochs=2, enable_progress_bar=True)
    assert seen.texts == ["Epoch 1/2", "Epoch 2/2"]
    assert "Epoch 0" not in capsys.readouterr().out
    assert "v_num" not in seen.metrics
