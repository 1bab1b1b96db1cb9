"""A run whose numbers are none ends at that step, and leaves the good checkpoints alone."""

import lightning as L
import pytest
import torch
from tiny_run import fit

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.callbacks.non_finite import StopOnNonFinite
from roiseg.common.errors import UserError
from roiseg.inference.checkpoint import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 3  # of an epoch: 5 images, 2 a step


class Poison(L.Callback):
    """Spoils one step (1-based, of the whole run): what it is given is called then."""

    def __init__(self, step, spoil):
        self.step, self.spoil, self.undo = step, spoil, None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.undo is not None:
            self.undo.remove()
        self.undo = self.spoil(module) if trainer.global_step + 1 == self.step else None


def term(name, value):
    """A loss term that is `value`."""
    return lambda module: module.loss.terms[name].register_forward_hook(lambda *given: given[2] * value)


def gradient(value):
    """One parameter's gradient that is `value`."""
    spoil = lambda given: torch.full_like(given, value)  # noqa: E731
    return lambda module: next(iter(module.decoder.parameters())).register_hook(spoil)


def weights(module):
    """Weights that the step leaves as infinite, with a finite loss and gradient."""

    def ruin(*_):
        next(iter(module.decoder.parameters())).data.fill_(torch.inf)

    return module.trainer.optimizers[0].register_step_post_hook(ruin)


def run(coco_set, onnx_file, folder, spoil, step, **options):
    """Train, spoilt at `step`; returns (the message, names of the checkpoints left)."""
    callbacks = [Poison(step, spoil), StopOnNonFinite(), EpochCheckpoint(folder / "ckpt", (64, 64))]
    with pytest.raises(UserError) as error:
        fit(coco_set, onnx_file, folder, callbacks, max_epochs=3, **options)
    return str(error.value), sorted((folder / "ckpt").glob("[!.]*"))


SPOILT = {
    "nan": (term("dice", torch.nan), "loss term `dice` is nan, the loss is nan, the gradient is nan"),
    "inf-gradient": (gradient(-torch.inf), "step 2 of 3: the gradient is inf"),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT)
def test_the_line_names_step_and_term_and_the_checkpoint_stays(coco_set, onnx_file, tmp_path, spoil, told):
    message, left = run(coco_set, onnx_file, tmp_path, spoil, STEPS + 2)
    assert message.startswith("epoch 2, step 2 of 3: ") and told in message
    for hint in ("optimizer.lr (now ", "trainer.precision=32-true (now 32-true)", "loss.class_weights"):
        assert hint in message
    assert "\n" not in message
    (path,) = left
    assert path.name.startswith("checkpoint_epoch_0001_")
    assert message.endswith(f"the last good checkpoint is {path}, where ckpt_path=last resumes")
    content = read_checkpoint(path)["state_dict"]
    assert all(torch.isfinite(value).all() for value in content.values() if value.is_floating_point())


@pytest.mark.parametrize("validated", [1, 0])
def test_weights_that_the_last_step_of_an_epoch_ruins_are_not_saved(coco_set, onnx_file, tmp_path, validated):
    message, left = run(coco_set, onnx_file, tmp_path, weights, 2 * STEPS, limit_val_batches=validated)
    assert message.startswith("epoch 2, after its last step: ")
    assert "the weights' norm is inf" in message or "the weights' norm is nan" in message
    assert len(left) == validated  # without a validation there is no mIoU to name a checkpoint by


def test_without_a_checkpoint_the_line_says_so(coco_set, onnx_file, tmp_path):
    message, left = run(coco_set, onnx_file, tmp_path, term("ce", torch.nan), 1)
    assert message.startswith("epoch 1, step 1 of 3: loss term `ce` is nan")
    assert message.endswith("there is no checkpoint yet")
    assert not left


def test_steps_that_arrive_late_are_named_by_their_own_number(coco_set, onnx_file, tmp_path, monkeypatch):
    """As on a GPU, where numbers are looked at when their copy is there: here never before the epoch's end."""
    monkeypatch.setattr("callbacks.non_finite._Step.arrived", lambda step: False)
    message, left = run(coco_set, onnx_file, tmp_path, term("dice", torch.nan), STEPS + 1)
    assert message.startswith("epoch 2, step 1 of 3: loss term `dice` is nan")
    assert len(left) == 1
