"""The registry is the only list of metrics, and the documentation describes all of it."""

import ast
import re
from pathlib import Path

from roiseg.metrics.registry import LABELS

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "roiseg").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")])
COMPUTED_IN = {"registry.py", "roi.py"}


def listed(source):
    """Lists, tuples, sets and dicts of a source with two or more metric names."""
    found = []
    if sum(name in source for name in LABELS) < 2:
        return found
    for node in ast.walk(ast.parse(source)):
        parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        values = [part.value for part in parts if isinstance(part, ast.Constant)]
        names = [value for value in values if isinstance(value, str) and value.split("/")[-1] in LABELS]
        if len(names) > 1:
            found.append(names)
    return found


def test_no_other_file_lists_metrics():
    found = {path.name: names for path in FILES if (names := listed(path.read_text()))}
    assert not found.keys() - COMPUTED_IN, found


def test_the_documentation_describes_every_metric():
    table = (ROOT / "docs" / "training.md").read_text()
    documented = set(re.findall(r"`val/(\w+)`", table))
    assert set(LABELS) - documented == set()
