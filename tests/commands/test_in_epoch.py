"""A training that is terminated, wherever it is, ends in order between two steps and resumes exactly there."""

import json
import os
import signal

import pytest
import torch
from helpers import run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import roiseg.train
from roiseg.common.errors import UserError
from roiseg.inference.checkpoint import read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.training.module import RoiSegModule
from roiseg.training.resume import checkpoint_progress
from tools.chaos.kills import same

pytestmark = pytest.mark.slow

SMALL = ["data.batch_size=1", "trainer.max_epochs=2", "callbacks=minimal"]


def tell(patch, hook, count):
    """SIGTERM comes within the count-th call of a hook of the module."""
    calls, original = [], getattr(RoiSegModule, hook)

    def called(module, *given):
        calls.append(hook)
        if len(calls) == count:
            signal.raise_signal(signal.SIGTERM)
        return original(module, *given)

    patch.setattr(RoiSegModule, hook, called)


def cut_off(patch, epoch, batch):
    """The run breaks off in a step, the first of both 0."""
    original = RoiSegModule.training_step

    def step(module, given, number):
        if (module.current_epoch, number) == (epoch, batch):
            raise UserError("power cut")
        return original(module, given, number)

    patch.setattr(RoiSegModule, "training_step", step)


def without_model(overrides):
    return [override for override in overrides if not override.startswith("model.")]


def folders(root):
    return [f"paths.output_dir={root}/out", f"paths.checkpoint_dir={root}/ckpt", f"paths.root_dir={root}"]


def results(root):
    """Everything of a finished run that must not hang on where it was stopped."""
    summary = json.loads((root / "out/summary.json").read_text())
    content = read_checkpoint(newest_checkpoint(root / "ckpt"))
    kept = ("history", "final", "best", "test", "best_epoch", "epochs")
    return {key: summary[key] for key in kept}, content


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert_same_state(found[1], expected[1])


def assert_same_state(found, expected):
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(found[key], expected[key]), key


RECIPES = {
    "plain": [], "averaged": ["callbacks=[minimal,ema]"],
    "points at random": ["model=pointrend", "loss=pointrend"],
    "accumulated": ["trainer.accumulate_grad_batches=2"], "loader processes": ["data.num_workers=2"],
}  # fmt: skip


@pytest.fixture
def stop(run_main, monkeypatch):
    """`stop(hook, count, *command)`: the run ends in order, by a signal in the count-th call of that hook."""

    def run(hook, count, *command):
        with monkeypatch.context() as patch:
            tell(patch, hook, count)
            code, stderr = run_main(roiseg.train, *command, "ckpt_path=last")
        assert code == 143, stderr
        assert "Traceback" not in stderr
        return stderr.strip().splitlines()[-1]

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stopped_run_goes_on_within_the_epoch_bit_for_bit(tiny_overrides, run_main, stop, tmp_path, recipe):
    own = tiny_overrides if recipe != "points at random" else without_model(tiny_overrides)
    command = list({o.partition("=")[0]: o for o in [*own, *SMALL, *RECIPES[recipe]]}.values())
    code, stderr = run_main(roiseg.train, *command, *folders(tmp_path / "whole"))
    assert code == 0, stderr
    command += folders(tmp_path / "stopped")
    for step in (2, 4):  # after each start; an epoch has 5
        line = stop("training_step", step, *command)
        last = newest_checkpoint(tmp_path / "stopped/ckpt")
        assert last.name.startswith("checkpoint_in_epoch_000")
        assert checkpoint_progress(read_checkpoint(last))[1] > 0
        assert line == (
            f"roiseg: stopped by SIGTERM: the last good checkpoint is {last}, where ckpt_path=last resumes"
        )
    code, stderr = run_main(roiseg.train, *command, "ckpt_path=last")
    assert code == 0, stderr
    assert_same(results(tmp_path / "stopped"), results(tmp_path / "whole"))
    assert not list((tmp_path / "stopped/ckpt").glob("*in_epoch*"))


@pytest.mark.parametrize("recipe", ["plain", "averaged"])
def test_a_training_that_ended_within_an_epoch_goes_on_there(tiny_overrides, run_main, tmp_path, recipe):
    given = [
        *tiny_overrides, *SMALL, *RECIPES[recipe], "scheduler=constant", "trainer.max_epochs=-1", "test_best=false",
    ]  # fmt: skip
    command = list({o.partition("=")[0]: o for o in given}.values())
    assert run_main(roiseg.train, *command, "+trainer.max_steps=10", *folders(tmp_path / "whole"))[0] == 0
    command += folders(tmp_path / "ended")
    assert run_main(roiseg.train, *command, "+trainer.max_steps=7")[0] == 0  # an epoch has 5
    ended, content = results(tmp_path / "ended")
    assert checkpoint_progress(content) == (1, 2)
    assert [row["epoch"] for row in ended["history"]] == [1, 2]
    assert ended["test"]["test/miou"] == pytest.approx(ended["final"]["val/miou"])
    assert run_main(roiseg.train, *command, "+trainer.max_steps=10", "ckpt_path=last")[0] == 0
    (found, state), (expected, whole) = results(tmp_path / "ended"), results(tmp_path / "whole")
    assert_same_state(state, whole)
    assert [row["epoch"] for row in found["history"]] == [1, 2, 2]
    assert [found["history"][0], found["history"][2]] == expected["history"]
    assert all(found[key] == expected[key] for key in ("final", "test", "epochs"))


def test_an_epoch_in_its_last_step_is_finished_first(tiny_overrides, run_main, stop, tmp_path):
    command = [*tiny_overrides, *SMALL, *folders(tmp_path)]
    stop("training_step", 5, *command)
    stop("validation_step", 1, *command)
    names = [path.name[:21] for path in sorted((tmp_path / "ckpt").glob("*.pth"))]
    assert names == ["checkpoint_epoch_0001", "checkpoint_epoch_0002"]
    assert not (tmp_path / "out/summary.json").exists()  # it was the last epoch: no test yet
    events = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    assert len(events.Scalars("val/miou")) == len(events.Scalars("train/loss")) == 2
    code, stderr = run_main(roiseg.train, *command, "ckpt_path=last")
    assert code == 0, stderr
    assert len(results(tmp_path)[0]["history"]) == 2


def test_a_run_resumes_from_the_checkpoint_of_a_step(tiny_overrides, run_main, monkeypatch, tmp_path):
    command = [*tiny_overrides, *SMALL]
    assert run_main(roiseg.train, *command, *folders(tmp_path / "whole"))[0] == 0
    command += [*folders(tmp_path / "crashed"), "callbacks.in_epoch.every_n_steps=2", "ckpt_path=last"]

    with monkeypatch.context() as patch:
        cut_off(patch, epoch=1, batch=4)
        code, stderr = run_main(roiseg.train, *command)
    assert code == 2
    assert "power cut" in stderr
    last = newest_checkpoint(tmp_path / "crashed/ckpt")
    assert checkpoint_progress(read_checkpoint(last)) == (1, 3)  # steps 6 and 8 of 10 were saved
    code, stderr = run_main(roiseg.train, *command)
    assert code == 0, stderr
    assert_same(results(tmp_path / "crashed"), results(tmp_path / "whole"))


def test_a_run_is_not_resumed_with_epochs_of_other_steps(tiny_overrides, run_main, stop, tmp_path):
    command = [*tiny_overrides, *SMALL, *folders(tmp_path)]
    stop("training_step", 8, *command)  # an epoch and three steps
    within = newest_checkpoint(tmp_path / "ckpt")
    content = read_checkpoint(within)
    other = tmp_path / "other.pth"
    torch.save({**content, "steps": 3}, other)  # of a data set that has grown since
    before = sorted(tmp_path.rglob("*.pth"))
    for change, told in (
        ([f"ckpt_path={other}"], "was trained with epochs of 3 steps, this run's have 5: "),
        (["data.batch_size=2", "ckpt_path=last"], "was trained with data.batch_size=1 (this run: 2): "),
        (["optimizer.lr=0.5", "ckpt_path=last"], "(this run: 0.5): "),
    ):
        code, stderr = run_main(roiseg.train, *command, *change)
        assert code == 2
        assert told in stderr.strip().splitlines()[-1]
        assert sorted(tmp_path.rglob("*.pth")) == before


def test_several_processes_end_in_the_same_step_and_go_on_there(tiny_overrides, start_train, tmp_path):
    several = [
        *tiny_overrides, *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "scheduler=constant",
    ]  # fmt: skip
    process = start_train([*several, *folders(tmp_path), "trainer.max_epochs=500"])
    process.terminate()  # the first only: the other has to be told
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert stderr.count("stopped by SIGTERM") == 1
    epochs, _ = checkpoint_progress(read_checkpoint(newest_checkpoint(tmp_path / "ckpt")))
    few = [*several, f"trainer.max_epochs={epochs + 1}"]
    for command in ([*few, *folders(tmp_path), "ckpt_path=last"], [*few, *folders(tmp_path / "whole")]):
        done = run_command(["roiseg.train", *command], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    found, expected = results(tmp_path), results(tmp_path / "whole")
    for ours, theirs in zip(found[0]["history"], expected[0]["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert_same_state(found[1], expected[1])


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_terminated_training_says_what_is_kept(tiny_overrides, start_train, tmp_path, number, workers):
    arguments = [
        *tiny_overrides, "trainer.max_epochs=1000", f"data.num_workers={workers}", "~callbacks.overlays",
        f"paths.output_dir={tmp_path}/out", f"paths.checkpoint_dir={tmp_path}/ckpt",
    ]  # fmt: skip
    process = start_train(arguments)
    os.killpg(process.pid, number)  # as a terminal does, and SLURM: loader processes get it, too
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    last = newest_checkpoint(tmp_path / "ckpt")
    assert stderr.strip().splitlines()[-1] == (
        f"roiseg: stopped by {number.name}: the last good checkpoint is {last}, where ckpt_path=last resumes"
    )
    assert "Traceback" not in stderr
    read_checkpoint(last)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".roiseg_run"]
    assert not (tmp_path / "out/summary.json").exists()
