"""A short run of the fuzzer over every format; `python -m tools.fuzz CASES SEED` takes as many cases as given."""

from __future__ import annotations

import shutil

from tools.fuzz import run

EACH = 4  # cases per format


def test_readers_succeed_or_say_what_is_wrong(finished, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "tools.fuzz.export_model", lambda _, path, *__: shutil.copy(finished.exported(), path)
    )
    outcomes = run(17 * EACH, 3, [], tmp_path)
    assert {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures} == {}
    assert {name: outcome.counts.total() for name, outcome in outcomes.items()} == dict.fromkeys(
        outcomes, EACH
    )
