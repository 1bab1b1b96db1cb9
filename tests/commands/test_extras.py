"""A feature whose extra is not installed names the command that installs it."""

import re
import sys

import numpy as np
import pytest
from helpers import ROOT, user_error
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

import roiseg.train
from roiseg.inference.prediction import Prediction
from roiseg.onnx_export.export import ExportOptions
from roiseg.onnx_export.runtimes import NotInstalledError, open_vino

SWEEPS = {"optuna": "sweeper/optuna", "joblib": "launcher/joblib", "submitit_local": "launcher/submitit_local",
          "slurm": "launcher/submitit_slurm"}  # fmt: skip
EXTRAS = {"joblib", "mlflow", "openvino", "optuna", "simplify", "slurm", "supervision", "wandb"}


def told(extra):
    return f"needs the extra {extra}: pip install 'roiseg[{extra}]'"


def test_every_extra_is_tested_here():
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert set(re.findall(r"^(\w+) = \[", table.partition("\n[")[0], re.MULTILINE)) == EXTRAS | {"dev"}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep(run_main, tiny_overrides, monkeypatch, sweep):
    Plugins.instance()  # registers what is installed
    kind, plugin = SWEEPS[sweep].split("/")
    known = ConfigStore.instance().repo["hydra"]
    monkeypatch.setitem(known, kind, {k: v for k, v in known[kind].items() if k != f"{plugin}.yaml"})
    code, stderr = run_main(roiseg.train, "-m", f"sweep={sweep}", *tiny_overrides, "seed=1,2")
    extra = "slurm" if sweep == "submitit_local" else sweep
    assert (code, stderr) == (2, f"roiseg: error: hydra/{SWEEPS[sweep]} {told(extra)}\n")


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger(run_main, tiny_overrides, monkeypatch, tmp_path, logger):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{logger}._{logger.upper()}_AVAILABLE", False)
    code, stderr = run_main(roiseg.train, *tiny_overrides, f"logger={logger}")
    assert (code, stderr) == (2, f"roiseg: error: logger={logger} {told(logger)}\n")
    assert not list(tmp_path.rglob("*.pth"))


def test_an_export_that_is_simplified(monkeypatch):
    monkeypatch.setattr("roiseg.onnx_export.export.find_spec", lambda name: None)
    assert user_error(lambda: ExportOptions(simplify=True)) == f"simplify=true {told('simplify')}"


def test_a_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(NotInstalledError, match=re.escape("pip install 'roiseg[openvino]'")):
        open_vino(None, [], "masks")


def test_a_conversion_to_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    prediction = Prediction((4, 4), np.zeros((0, 4)), np.zeros(0), np.zeros(0), [], [])
    assert user_error(prediction.to_supervision) == f"to_supervision {told('supervision')}"
