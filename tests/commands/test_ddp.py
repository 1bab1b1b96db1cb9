"""Runs on several processes give the results of one, share one set of folders, and end together."""

import json
import random
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import TINY_IMAGES, TINY_INSTANCES, person, run_command, start_command, write_coco
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from tiny_run import one_thread

import roiseg.train
from roiseg.inference.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

DDP = ["trainer=ddp", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def even_set(tmp_path_factory):
    """4 images, the same for two processes, without crowds, whose pixels would not count."""
    images = {name: TINY_IMAGES[name] for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}
    people = [i for i in TINY_INSTANCES if i["file"] in images and not i.get("iscrowd")]
    return write_coco(tmp_path_factory.mktemp("even"), images, people)


@pytest.fixture(scope="module")
def one_image(tmp_path_factory):
    people = [i for i in TINY_INSTANCES if i["file"] == "c.jpg"]
    return write_coco(tmp_path_factory.mktemp("one"), {"c.jpg": TINY_IMAGES["c.jpg"]}, people)


@pytest.fixture
def overrides(tiny_overrides, even_set):
    """Plain cross-entropy, a mean over pixels of which every process has equally many: comparable exactly."""
    kept = [o for o in tiny_overrides if not o.startswith(("trainer=", "data.batch_size"))]
    return [
        *kept, f"data.train_annotations={even_set.json}", f"data.train_images={even_set.images}",
        "loss=ce", "scheduler=constant", "~callbacks.onnx_export",
    ]  # fmt: skip


def folders(root):
    return [f"paths.output_dir={root}/out", f"paths.checkpoint_dir={root}/ckpt"]


def weights(folder):
    return read_checkpoint(sorted(folder.glob("*.pth"))[-1])["state_dict"]


def table(path):
    """The numbers of an instances.csv [n, 10]."""
    return np.genfromtxt(path, delimiter=",", skip_header=1, usecols=[0, *range(2, 11)], ndmin=2)


def curves(folder):
    """Pixels called target, and called so wrongly, at every threshold in every epoch's curve; none without."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = events.Tensors("val/pr_curve") if "val/pr_curve" in events.Tags()["tensors"] else []
    return np.array([tensor_util.make_ndarray(event.tensor_proto)[:2] for event in found])


def assert_same_run(several, alone):
    """Figures, images and weights of two runs agree.

    Training losses and weights do to float tolerance. Pixels whose two best classes are as good as equal may go
    either way, on another processor other ones: what is counted in pixels agrees but for a few of them. A
    process whose share is not counted, or an image that counts twice, is off by far more.
    """
    assert_same_figures(several, alone)
    (boxes, ious), (their_boxes, their_ious) = (
        np.split(table(Path(s["output_dir"]) / "instances.csv"), [8], axis=1) for s in (alone, several)
    )
    np.testing.assert_allclose(their_boxes, boxes, atol=1e-3)
    np.testing.assert_allclose(their_ious, ious, atol=0.05)
    np.testing.assert_allclose(their_ious.mean(0), ious.mean(0), atol=0.003)
    for name in ("worst", "best"):
        theirs, ours = (
            cv2.imread(str(Path(s["output_dir"]) / f"overlays/test_{name}.png")) for s in (several, alone)
        )
        assert theirs.shape == ours.shape, name
        if (their_ious[:, 0].argsort() == ious[:, 0].argsort()).all():  # else two of a kind changed places
            assert (theirs == ours).mean() > 0.99, f"test_{name}.png: {(theirs == ours).mean():.3f} agree"
    theirs, ours = (curves(Path(s["output_dir"])) for s in (several, alone))
    np.testing.assert_allclose(theirs, ours, atol=0.002 * ours.max(initial=0))
    theirs, ours = (weights(Path(s["checkpoint_dir"])) for s in (several, alone))
    assert theirs.keys() == ours.keys()
    # on average: AdamW makes whole steps even of gradients that are nothing but rounding
    off = {name: float((theirs[name] - ours[name]).abs().mean()) for name in ours}
    assert max(off.values()) < 1e-5, max(off.items(), key=lambda item: item[1])


def assert_same_figures(several, alone):
    """Of every epoch, and of the test; validation losses are means of means over batches, which are other ones."""
    assert [epoch.keys() for epoch in several["history"]] == [epoch.keys() for epoch in alone["history"]]
    differing = [
        f"{number} {name}: {theirs[name]} instead of {ours[name]}"
        for number, (theirs, ours) in enumerate(
            zip([*several["history"], several["test"]], [*alone["history"], alone["test"]], strict=True), 1
        )
        for name in ours
        if not name.startswith(("val/loss", "test/loss"))
        if abs(theirs[name] - ours[name]) > (1e-3 if name.startswith(("val/", "test/")) else 1e-5)
    ]
    assert not differing, "\n".join(differing)


def test_two_processes_equal_one_and_torchrun_goes_on_with_them(overrides, run_train, tmp_path):
    single = [*overrides, "trainer=cpu", "data.batch_size=2", "trainer.max_epochs=3"]
    with one_thread():  # as the commands
        alone = run_train(tmp_path / "alone", *single, export=True)
    several = [*overrides, *DDP, "data.batch_size=1", *folders(tmp_path)]
    done = run_command(["roiseg.train", *several, "trainer.max_epochs=2"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip()
    said = [done.stdout.count(words) for words in ("epoch 1/2", "best mIoU in epoch")]
    assert said == [1, 1], done.stdout  # one process speaks
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        ".roiseg_run", "config.yaml", "csv", "instances.csv", "overlays", "summary.json", "tensorboard",
    }  # fmt: skip
    assert len(list((tmp_path / "ckpt").glob("*.pth"))) == 2

    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "roiseg.train"]
    again = run_command([*torchrun, *several, "trainer.max_epochs=3", "ckpt_path=last"], cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("resuming from") == 1, again.stdout
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["resumed_from"].startswith(f"{tmp_path}/ckpt/checkpoint_epoch_0002")
    assert len(list((tmp_path / "ckpt").glob("*.pth"))) == 3
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert written - {"alone", "data"} == {"out", "ckpt"}
    assert len(curves(tmp_path / "out")) == 3
    assert_same_run(summary, alone)


def free_port():
    """A free port that the system deals out to nobody until the tasks have started."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port


def start_tasks(arguments, cwd, **variables):
    """Two processes as srun starts them on two machines; returns (exit code, stdout, stderr) of each."""
    slurm = {
        "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0", "MASTER_PORT": str(free_port()),
        **variables,
    }  # fmt: skip
    tasks = [
        start_command(
            ["roiseg.train", *arguments], cwd, {**slurm, "SLURM_PROCID": rank, "SLURM_NODEID": rank}
        )
        for rank in "01"
    ]
    ends = [task.communicate(timeout=200) for task in tasks]
    return [(task.returncode, *end) for task, end in zip(tasks, ends, strict=True)]


def test_slurm_tasks_on_two_machines_equal_one_process(overrides, one_image, run_train, tmp_path):
    overrides = [o for o in overrides if not o.startswith(("callbacks", "data.val_"))]
    overrides += [
        f"data.val_annotations={one_image.json}", f"data.val_images={one_image.images}",
        "callbacks=[default,ema,early_stopping]",
    ]  # fmt: skip
    several = [*overrides, *DDP, "trainer.num_nodes=2", "trainer.devices=1", "data.batch_size=1"]
    (first, second) = start_tasks(several, tmp_path)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert not second[1].strip() and not second[2].strip()
    (path,) = tmp_path.glob("outputs/train/*/summary.json")
    assert len(list(tmp_path.glob("outputs/train/*"))) == len(list(tmp_path.glob("checkpoints/*"))) == 1
    single = [*overrides, "trainer=cpu", "data.batch_size=2"]
    with one_thread():
        alone = run_train(tmp_path / "alone", *single, export=True)
    assert_same_run(json.loads(path.read_text()), alone)


def test_an_image_that_is_skipped_on_one_of_two_processes_is_left_out_as_one_process_does(
    overrides, run_train, tmp_path
):
    """7 images are validated on: one process has one less."""
    names = [f"{n}.jpg" for n in range(8)]
    people = [{"file": name, "segmentation": person(30 + 5 * n, 6, 80)} for n, name in enumerate(names)]
    coco = write_coco(tmp_path / "data", dict.fromkeys(names, (96, 96)), people)
    (coco.images / "4.jpg").write_bytes(b"no image")
    content = coco.content()
    fewer = {key: content[key][:-1] for key in ("images", "annotations")}
    (tmp_path / "data/val.json").write_text(json.dumps(content | fewer))
    given = [o for o in overrides if not o.startswith(("data.train_", "data.val_"))]
    for split, file in (("train", coco.json), ("val", tmp_path / "data/val.json")):
        given += [f"data.{split}_annotations={file}", f"data.{split}_images={coco.images}"]
    given.append("data.on_error=skip")
    with one_thread():
        alone = run_train(tmp_path / "alone", *given, "trainer=cpu", "data.batch_size=2", export=True)
    several = [*given, *DDP, "data.batch_size=1", *folders(tmp_path)]
    done = run_command(["roiseg.train", *several], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    together = json.loads((tmp_path / "out/summary.json").read_text())
    skipped = alone["skipped_images"]
    assert {stage: found["times"] for stage, found in skipped.items()} == {"train": 2, "val": 2, "test": 1}
    assert together["skipped_images"] == skipped
    assert len(table(tmp_path / "out/instances.csv")) == 6
    assert_same_run(together, alone)


def test_a_mistake_that_one_process_meets_ends_both_without_a_traceback(overrides, even_set, tmp_path):
    for path in even_set.images.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:300] if path.name == "b.jpg" else content)
    several = [*overrides, *DDP, "data.batch_size=1", f"data.train_images={tmp_path}", *folders(tmp_path)]
    done = run_command(["roiseg.train", *several], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert "b.jpg is damaged" in lines[0]
    assert all(line.startswith("roiseg: error: ") for line in lines)
    assert "another process" in lines[-1] or len(lines) == 1


SLURM = {"JOB_NAME": "train", "NTASKS": 2, "NTASKS_PER_NODE": 2, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
REFUSED = {
    "a mistake of the model": ([*DDP, "model.num_classes=7"], ["model.num_classes", "7"], {}),
    "devices alone": (["trainer=cpu", "trainer.devices=2"], ["trainer=ddp", "strategy=auto"], {}),
    "a sweep of process groups": (["-m", *DDP, "seed=1"], ["sweep=joblib", "trainer.devices=1"], {}),
    "other tasks than devices": (
        [*DDP, "trainer.devices=3"], ["trainer.devices, trainer.num_nodes: ", "--ntasks-per-node=2"], SLURM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_anything_starts(case, overrides, run_main, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    arguments, parts, slurm = REFUSED[case]
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    code, stderr = run_main(roiseg.train, *arguments, *overrides)
    assert code == 2
    line = stderr.strip().splitlines()[-1]
    assert line.startswith("roiseg: error: ")
    assert all(part in line for part in parts), line
    assert not list(tmp_path.rglob("config.yaml"))
