"""The commands that README and pages show compose, and the README's Python runs."""

import importlib
import re
import shlex
import shutil

import pytest
from helpers import ROOT

from roiseg.config.compose import compose_run
from roiseg.config.validation import TrainOptions, validated

README = (ROOT / "README.md").read_text()
PAGES = "\n".join(  # the changelog names commands that are gone
    path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if path.name != "CHANGELOG.md"
)
BLOCKS = r"^```.*?^```"  # executed by tests/docs
SHOWN = re.findall(
    r"`[^`\n]*?-m (roiseg\.\w+[^`]*)`|^ {4}python -m (roiseg\.\w+.*?)(?: +#.*)?$",
    re.sub(BLOCKS, "", PAGES, flags=re.DOTALL | re.MULTILINE),
    flags=re.MULTILINE,
)
COMMANDS = sorted({inline or indented for inline, indented in SHOWN} - {"roiseg.COMMAND"})
assert len(COMMANDS) > 10


def test_the_python_shown_gives_masks(coco_set, tmp_path, monkeypatch):
    shutil.copy(coco_set.images / "a.jpg", tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    shown: dict = {}
    (python,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(python, shown)
    assert shown["masks"].shape == (1, 80, 100)
    assert shown["results"][0]["bbox"] == [10, 12, 38, 58]


@pytest.mark.parametrize("shown", COMMANDS)
def test_every_command_shown_composes(shown, run_main, checkpoint, tmp_path, monkeypatch):
    for file in ("FILE", "OTHER"):  # evaluate starts from what a checkpoint holds
        shutil.copy(checkpoint, tmp_path / file)
    monkeypatch.setenv("ROISEG_REALDATA", "/data")
    name, *arguments = shlex.split(re.sub(r"=[KS]\b", "=1", shown))  # fold K, seed S
    module = importlib.import_module(name)
    if "-m" in arguments:  # the first job of the sweep
        arguments = [re.sub(r"=(\[[^]]*\]|[\w./]+),\S+", r"=\1", a) for a in arguments if a != "-m"]
    flags = [] if "--help" in arguments or "--cfg" in arguments else ["--cfg", "job"]
    code, stderr = run_main(module, *arguments, *flags)
    assert code == 0, stderr
    if name == "roiseg.train" and flags:
        given = [word for word in arguments if not word.startswith("hydra")]
        validated(compose_run(tmp_path / "run", *given), TrainOptions)
