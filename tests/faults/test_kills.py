"""A handful of kills; `python -m tools.chaos.kills 50` is the long form."""

from __future__ import annotations

import re

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow


def test_a_killed_training_loses_nothing():
    done = run_command(["tools.chaos.kills", "5", "1"], timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(re.findall(r"│ ([\w -]+?) +│ +(\d+) │", done.stdout))
    assert told["kills"] == "5"
    assert int(told["results compared"]) >= 20
    assert told["half-written files"] == told["lost epochs"] == told["results that differ"] == "0"
