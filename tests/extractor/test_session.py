"""What an open ONNX Runtime session leaves on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT

OPEN = """
import os, sys
from pathlib import Path
from roiseg.extractor.session import open_session
session = open_session(Path(sys.argv[1]).read_bytes(), sys.argv[1], ["CPUExecutionProvider"], 1)
print(len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1)
"""


@pytest.mark.slow
def test_nothing_is_written_at_home_and_no_thread_runs(onnx_file, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(onnx_file)], env={**kept, **home, "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert int(done.stdout) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
