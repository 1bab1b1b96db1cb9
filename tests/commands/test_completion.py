"""`eval "$(roiseg --completion)"` in a real bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("roiseg pre", "predict preview prepare"),
        pytest.param("roiseg train model=co", "model=coarse model=condinst", marks=pytest.mark.slow),
        pytest.param("roiseg predict tta=f", "tta=full", marks=pytest.mark.slow),
    ],
)
def test_tab_offers_commands_keys_and_choices(typed, offered, tmp_path):
    script = f"""eval "$(roiseg --completion)"
    COMP_LINE="{typed}" COMP_WORDS=({typed}) COMP_CWORD={len(typed.split()) - 1}
    _roiseg
    echo "${{COMPREPLY[@]}}" """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == offered, done.stderr
