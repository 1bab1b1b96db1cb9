"""What a terminal shows while a model trains."""

import io
import logging

import lightning as L
import pytest
from rich.console import Console
from rich.progress import Progress
from tiny_run import fit

from roiseg.callbacks.history import History, ProgressBar
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


@pytest.mark.parametrize(
    ("limits", "last"), [({"max_epochs": 2}, "/2"), ({"max_epochs": -1, "max_steps": 6}, "")]
)
def test_epochs_count_from_1_and_the_loggers_version_is_left_out(
    coco_set, onnx_file, tmp_path, capsys, caplog, limits, last
):
    bar = ProgressBar()
    seen = Descriptions(bar)
    with caplog.at_level("INFO"):
        fit(coco_set, onnx_file, tmp_path, [bar, seen, History()], enable_progress_bar=True, **limits)
    assert seen.texts == [f"Epoch 1{last}", f"Epoch 2{last}"]
    assert "Epoch 0" not in capsys.readouterr().out
    assert "v_num" not in seen.metrics
    lines = [text for text in caplog.messages if text.startswith("epoch ")]
    assert [text.split()[1] for text in lines] == [f"1{last}", f"2{last}"]
