"""The notebooks run from top to bottom, wherever they are started."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell

pytestmark = pytest.mark.slow

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTE = Path(__file__).with_name("execute.py")
TINY = {"TRAIN_IMAGES": 8, "VAL_IMAGES": 4, "EPOCHS": 1}


def executed(name, folder, tmp_path, **parameters):
    """A notebook run in `folder`, with other parameters set after its own."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    (number,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    lines = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(number + 1, new_code_cell(lines))
    changed, done = tmp_path / "changed.ipynb", tmp_path / "done.ipynb"
    nbformat.write(notebook, changed)
    run = subprocess.run(
        [sys.executable, str(EXECUTE), str(changed), str(done)], cwd=folder, timeout=500, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path)}, capture_output=True,
    )  # fmt: skip
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return nbformat.read(done, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def words(notebook):
    return "\n".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in outputs(notebook))


def test_they_are_kept_with_their_outputs_and_without_paths_of_a_machine():
    assert [path.name for path in FILES] == ["ablation.ipynb", "quickstart.ipynb"]
    for path in FILES:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        found = outputs(notebook)
        pictures = [output for output in found if "image/jpeg" in output.get("data", {})]
        assert len(pictures) == {"quickstart": 7, "ablation": 3}[path.stem]
        assert not [o for o in found if o.output_type == "error" or "traceback" in o]
        assert not re.search(r"(?<![\w.])/(home|tmp|work|root|Users)/", "\n".join(map(str, found)))
        assert path.stat().st_size < 1_000_000


def test_quickstart(tmp_path):
    done = executed("quickstart.ipynb", ROOT / "notebooks", tmp_path, FOLDER=str(tmp_path), **TINY)
    assert len(pictures(done)) == 7
    (line,) = [line for line in words(done).splitlines() if line.startswith("pixels that agree")]
    assert float(line.split()[-1].rstrip("%")) > 99
    assert (tmp_path / "quickstart" / "summary.json").is_file()
    assert list((tmp_path / "quickstart" / "onnx").glob("*.onnx"))


def test_ablation_trains_and_then_reads_the_runs_again(tmp_path):
    first = executed("ablation.ipynb", ROOT, tmp_path, FOLDER=str(tmp_path / "made"), SEEDS=[1], **TINY)
    (sweep,) = (tmp_path / "made" / "ablation").iterdir()
    assert len(list(sweep.glob("*/instances.csv"))) == 2
    again = executed("ablation.ipynb", tmp_path, tmp_path, FOLDER=str(tmp_path / "read"), RUNS=[str(sweep)])
    assert len(list(tmp_path.rglob("instances.csv"))) == 2
    tables = []
    for notebook in (first, again):
        assert len(pictures(notebook)) == 3
        found = [output.get("data", {}).get("text/markdown") for output in outputs(notebook)]
        tables += filter(None, found)
    assert tables[0] == tables[1]
    rows = [line.split("|")[1].strip(" `") for line in tables[0].splitlines()[2:4]]
    assert rows == ["model.num_classes=2", "model.num_classes=3"]
