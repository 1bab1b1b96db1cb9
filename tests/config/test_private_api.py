"""Private names of other packages: used in one file only, and still what that file expects."""

import ast
from types import SimpleNamespace

from helpers import ROOT
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar

from roiseg.config.private_api import stop_child_observers, write_summary

FILES = sorted(path for folder in ("roiseg", "callbacks") for path in (ROOT / folder).rglob("*.py"))
PUBLIC = {"_replace", "_asdict", "_fields"}  # of named tuples


def private(name):
    return name.startswith("_") and not name.endswith("__")


def own_names(trees):
    """Private names that this project defines: functions, classes, methods, attributes, constants, fields."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def foreign_private_names(tree, own):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("roiseg"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if private(name) and name != "__future__")
        elif isinstance(node, ast.Attribute) and private(node.attr) and isinstance(node.ctx, ast.Load):
            if node.attr not in own | PUBLIC:
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and private(node.name) and "__" in node.name:
            yield node.name  # a mangled name of a base class


def test_private_names_of_other_packages_are_in_one_file():
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    own = set(own_names(trees.values()))
    found = {
        str(path.relative_to(ROOT)): names
        for path, tree in trees.items()
        if (names := set(foreign_private_names(tree, own - {"_child_processes"})))
    }
    assert set(found) == {"roiseg/config/private_api.py"}, found


def test_a_summary_goes_to_the_runs_own_file(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    write_summary(writer, scalar("x", 1.0))
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_lightnings_observers_end():
    running = SimpleNamespace(args=("child",), returncode=None, poll=lambda: None)
    observer = _ChildProcessObserver(main_pid=0, child_processes=[running], sleep_period=0)
    observer.start()
    stop_child_observers()
    observer.join(60)
    assert not observer.is_alive()
