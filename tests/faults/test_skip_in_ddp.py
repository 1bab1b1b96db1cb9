"""Images that cannot be used on one of two processes: no one waits for ever, and the figures are one process's."""

import json
from pathlib import Path

import numpy as np
import pytest
from composing import composed
from helpers import person, run_command, write_coco

from roiseg.inference.checkpoint import read_checkpoint
from roiseg.train import train
from tests.tiny_run import one_thread
from tools.chaos.kills import command

pytestmark = pytest.mark.slow

NAMES = [f"{n}.jpg" for n in range(8)]
BAD = "4.jpg"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """8 images of a person each, one of them no image. 7 are validated on: one process has one less."""
    people = [{"file": name, "segmentation": person(30 + 5 * n, 6, 80)} for n, name in enumerate(NAMES)]
    folder = tmp_path_factory.mktemp("damaged")
    coco = write_coco(folder, dict.fromkeys(NAMES, (96, 96)), people)
    (coco.images / BAD).write_bytes(b"no image")
    content = coco.content()
    content["images"] = [image for image in content["images"] if image["file_name"] != NAMES[-1]]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != len(NAMES)]
    (folder / "val.json").write_text(json.dumps(content))
    return coco


@pytest.fixture
def overrides(damaged, onnx_file, tmp_path):
    given = ("data.train", "data.val", "trainer=", "paths", "extractor.onnx", "data.batch_size")
    usual = [word for word in command(tmp_path, tmp_path, export=True) if not word.startswith(given)]
    return [
        *usual, f"data.train_annotations={damaged.json}", f"data.train_images={damaged.images}",
        f"data.val_annotations={damaged.json.parent}/val.json", f"data.val_images={damaged.images}",
        f"extractor.onnx_path={onnx_file}", "data.on_error=skip", "loss=ce", "scheduler=constant",
        "trainer.max_epochs=2", "~callbacks.onnx_export",
    ]  # fmt: skip


def results(summary):
    """What was skipped, the history, the table of instances, the weights."""
    folder = Path(summary["output_dir"])
    table = np.genfromtxt(folder / "instances.csv", delimiter=",", skip_header=1, usecols=range(2, 11))
    (*_, last) = sorted(Path(summary["checkpoint_dir"]).glob("*.pth"))
    return summary["skipped_images"], summary["history"], table, read_checkpoint(last)["state_dict"]


def test_two_processes_leave_out_as_one_does(overrides, tmp_path):
    with one_thread():
        given = [*overrides, "trainer=cpu", "data.batch_size=2"]
        alone = results(train(composed(given, tmp_path / "alone")).content())
    done = run_command(
        ["roiseg.train", *overrides, "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=1",
         f"paths.output_dir={tmp_path}/out", f"paths.checkpoint_dir={tmp_path}/ckpt"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    together = results(json.loads((tmp_path / "out/summary.json").read_text()))
    assert {stage: found["times"] for stage, found in alone[0].items()} == {"train": 2, "val": 2, "test": 1}
    assert together[0] == alone[0]
    # pixels whose two best classes are as good as equal go either way, on another processor other ones
    for ours, theirs in zip(alone[1], together[1], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
        assert theirs["train/loss"] == pytest.approx(ours["train/loss"], abs=1e-5)
    assert len(alone[2]) == 6
    assert np.allclose(together[2], alone[2], atol=0.01)
    assert together[3].keys() == alone[3].keys()
    for name, weight in alone[3].items():
        assert (together[3][name] - weight).abs().mean() < 1e-5, name
