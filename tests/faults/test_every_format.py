"""A short run of the fuzzer over every format; `python -m tools.fuzz CASES SEED` takes as many cases as given."""

import shutil

from tools.fuzz import run

EACH = 4  # cases per format


def test_readers_succeed_or_say_what_is_wrong(finished, monkeypatch, tmp_path):
    exported = finished.exported()
    monkeypatch.setattr("tools.fuzz.export_model", lambda _, path, *__: shutil.copy(exported, path))
    outcomes = run(17 * EACH, 3, [], tmp_path)
    assert {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures} == {}
    assert {outcome.counts.total() for outcome in outcomes.values()} == {EACH}
