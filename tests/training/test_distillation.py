"""Distillation: a decoder that learns what trained models predict."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import user_error
from helpers.image_decoder import TinyImageDecoder
from tiny_run import (
    tiny_config,
    tiny_data,
    tiny_decoder,
    tiny_extractor,
    tiny_module,
    tiny_trainer,
    with_random_weights,
)

from roiseg.decoders.base import Context
from roiseg.inference.checkpoint import checkpoint_metadata
from roiseg.training.distillation import Distillation

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return tiny_extractor(onnx_file)


@pytest.fixture(scope="module")
def teachers(extractor, coco_set, onnx_file, tmp_path_factory):
    """Checkpoints by name: two models of three classes with other weights, and one of two classes."""
    paths = {}
    for seed, (name, classes) in enumerate({"one": 3, "other": 3, "two classes": 2}.items()):
        folder = tmp_path_factory.mktemp("teachers")
        decoder = with_random_weights(tiny_decoder(extractor, num_classes=classes), 0.3, seed)
        config = tiny_config(onnx_file, num_classes=classes)
        module = tiny_module(decoder, checkpoint_metadata(config, extractor))
        trainer = tiny_trainer(folder, max_steps=1, limit_val_batches=0)
        trainer.fit(module, datamodule=tiny_data(coco_set, extractor, decoder))
        paths[name] = str(folder / "checkpoint_epoch_0001_64x64_0.pth")
        trainer.save_checkpoint(paths[name])
    return paths


@pytest.fixture
def batch(coco_set, extractor):
    data = tiny_data(coco_set, extractor, tiny_decoder(extractor))
    return data.extract(next(iter(data.val_dataloader())))


def probabilities(decoder, batch):
    with torch.no_grad():
        return decoder(batch.features, batch.rois, Context()).logits.softmax(1)


def divergence(distillation, decoder, batch, max_rois=128):
    logits = decoder(batch.features, batch.rois, Context()).logits
    return distillation(logits, decoder, batch, Context(), max_rois)


def test_a_teachers_copy_has_nothing_to_learn_from_it(teachers, batch):
    distillation = Distillation([teachers["one"]])
    twin = copy.deepcopy(distillation.models[0].decoder)
    assert float(divergence(distillation, twin, batch)) == pytest.approx(0, abs=1e-6)


def test_it_is_the_divergence_from_the_mean_of_the_teachers_over_pixels_that_count(
    teachers, batch, extractor
):
    distillation = Distillation([teachers["one"], teachers["other"]])
    decoder = with_random_weights(tiny_decoder(extractor), 0.3, 7).eval()
    one, other = (probabilities(model.decoder, batch) for model in distillation.models)
    wanted, found = (one + other) / 2, probabilities(decoder, batch)
    assert (one - other).abs().max() > 0.05
    batch.targets[:, :3] = 255
    each = (wanted * (wanted / found).log()).sum(1)[:, 3:]
    for max_rois in (128, 2):
        value = divergence(distillation, decoder, batch, max_rois)
        torch.testing.assert_close(value.detach(), each.mean())
    batch.targets[:] = 255
    assert float(divergence(distillation, decoder, batch).detach()) == 0


def test_without_rois_it_is_zero_and_has_a_gradient(teachers, batch, extractor):
    batch.rois, batch.targets = batch.rois[:0], batch.targets[:0]
    value = divergence(Distillation([teachers["one"]]), tiny_decoder(extractor), batch)
    value.backward()
    assert float(value) == 0


def test_to_a_decoder_with_two_classes_non_targets_are_background(teachers, batch, extractor):
    distillation = Distillation([teachers["one"]])
    decoder = with_random_weights(tiny_decoder(extractor, num_classes=2), 0.3, 7).eval()
    three, found = probabilities(distillation.models[0].decoder, batch), probabilities(decoder, batch)
    wanted = torch.stack([three[:, 0] + three[:, 2], three[:, 1]], dim=1)
    expected = (wanted * (wanted / found).log()).sum(1)[batch.targets != 255].mean()
    torch.testing.assert_close(divergence(distillation, decoder, batch).detach(), expected)


def test_training_approaches_the_teacher_and_leaves_it_as_it_is(
    teachers, batch, coco_set, extractor, tmp_path
):
    distillation = Distillation([teachers["one"]], weight=100)
    teacher = distillation.models[0].decoder
    before = copy.deepcopy(teacher.state_dict())
    torch.manual_seed(3)
    module = tiny_module(tiny_decoder(extractor))
    plain = module.decoder
    module = type(module)(
        plain, module.loss, module.make_optimizer, module.make_scheduler, 0, {}, distillation=distillation
    )
    first = float(divergence(distillation, plain.eval(), batch).detach())
    trainer = tiny_trainer(tmp_path, max_epochs=15, limit_val_batches=0)
    trainer.fit(module, datamodule=tiny_data(coco_set, extractor, plain))
    assert float(divergence(distillation, plain.eval(), batch).detach()) < 0.5 * first
    assert float(trainer.callback_metrics["train/loss_distillation"]) > 0
    assert all(name.startswith("decoder.") for name in module.state_dict())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def told(teachers, decoder, extractor, name="one", **data):
    """The message of a check; the run has the data of the teachers, but for `data`."""
    distillation = Distillation([teachers[name]])
    return user_error(distillation.check, decoder, extractor, data)


def test_a_teacher_that_fits_is_accepted(teachers, extractor):
    assert told(teachers, tiny_decoder(extractor), extractor) == ""
    assert told(teachers, tiny_decoder(extractor, num_classes=2), extractor) == ""


@pytest.mark.parametrize("key", ["folds", "train_annotations", "val_annotations"])
def test_a_teacher_of_another_split_is_refused(teachers, extractor, key):
    message = told(teachers, tiny_decoder(extractor), extractor, **{key: {"held_out": 2}})
    assert f"data.{key}=None" in message
    assert "held out 2" in message
    assert teachers["one"] in message


def test_a_teacher_that_does_not_fit_is_refused_by_name(teachers, extractor):
    decoder = tiny_decoder(extractor)
    assert "model.num_classes=2" in told(teachers, decoder, extractor, "two classes")
    image = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64))
    assert "model.frame=roi" in told(teachers, image, extractor)

    def like(**changes):
        facts = {"project": None, "layers": extractor.layers, "digest": extractor.digest}
        return SimpleNamespace(**{**facts, "onnx_path": extractor.onnx_path, **changes})

    assert "extractor.project=null" in told(teachers, decoder, like(project=8))
    assert "extractor.layers=[/model.3/Concat_output_0]" in told(teachers, decoder, like(layers=["else"]))
    assert "SHA-256" in told(teachers, decoder, like(digest="00ff"))
    larger = tiny_decoder(extractor)
    larger.image_size = (128, 128)
    assert "extractor.preprocess.image_size" in told(teachers, larger, extractor)
