"""What no test may do: fork its own process, which has threads, sleep, or use a fixed port; and stale marks."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
ALLOWED = {
    "common/test_locks.py": {"fork"},  # what a fork inherits
    "child_processes.py": {"sleep"},  # the one place that waits
}


def faults(source: str) -> set[str]:
    """The kinds of what must not be in a test that are in this source: `fork`, `sleep`, `port`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = [
            part.value for each in node.args for part in ast.walk(each) if isinstance(part, ast.Constant)
        ]
        fork = called in ("os.fork", "os.forkpty") or (
            called.endswith("get_context") and given != ["forkserver"]
        )
        fork |= called.startswith("multiprocessing.") and called.endswith((".Process", ".Pool"))
        port = called.endswith((".bind", "create_server", "HTTPServer"))
        port &= any(isinstance(value, int) and value > 0 for value in given)
        kinds = {"fork": fork, "sleep": called in ("time.sleep", "sleep"), "port": port}
        found |= {kind for kind, there in kinds.items() if there}
    return found


def test_no_test_does():
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        if kinds := faults(path.read_text()) - ALLOWED.get(name, set()):
            found[name] = kinds
    assert not found


def test_every_slow_except_mark_keeps_a_fast_test(stale_marks):
    assert not stale_marks


def test_files_have_names_of_their_own():
    """Pytest imports test files by name: the second of two is an error."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_names_of_tests_hold_no_address(request):
    """The processes of xdist must collect the same names."""
    assert [item.nodeid for item in request.session.items if " at 0x" in item.nodeid] == []
