from __future__ import annotations

import pytest
import torch

from roiseg.common.errors import UserError
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.rebuild import rebuild

DECODER = {
    "_target_": "roiseg.decoders.roialign.RoiAlignDecoder",
    "num_classes": 2,
    "output_size": [28, 28],
    "mid_channels": 8,
}
PREPROCESS = {"_target_": "roiseg.extractor.preprocess.Preprocess", "image_size": [32, 48], "color": "bgr"}


def test_builds_the_class_with_its_options():
    decoder = rebuild(DECODER, in_channels=(5,), strides=(8,), image_size=(64, 64))
    assert type(decoder) is RoiAlignDecoder
    assert (decoder.num_classes, decoder.output_size, decoder.in_channels) == (2, (28, 28), (5,))


def test_builds_nested_nodes_first_also_in_lists_and_plain_dicts():
    built = rebuild({"plain": {"inner": PREPROCESS}, "list": [PREPROCESS, 3]})
    assert isinstance(built["plain"]["inner"], Preprocess)
    assert isinstance(built["list"][0], Preprocess)
    assert built["list"][1] == 3


@pytest.mark.parametrize("value", [None, 3, 0.5, "text", True, [1, [2, "x"]], {"a": {"b": [1]}}])
def test_plain_values_come_back_as_they_are(value):
    assert rebuild(value) == value


def test_the_node_is_left_as_it_is():
    node = {**DECODER, "nested": [dict(PREPROCESS)]}
    del node["nested"]
    before = dict(node)
    rebuild(node, in_channels=(5,), strides=(8,), image_size=(64, 64))
    assert node == before


def test_extra_arguments_are_for_the_outermost_call():
    assert (
        rebuild(DECODER, in_channels=(7,), strides=(4,), image_size=(64, 64)).crop.lateral[0].in_channels == 7
    )


UNTRUSTED = {
    "a function of the system": "os.system",
    "a class of another package": "subprocess.Popen",
    "a builtin": "builtins.exec",
    "no module": "system",
    "nothing": "",
    "a name that only begins alike": "roisegevil.decoders.Decoder",
    "the package itself": "roiseg.decoders",
    "a private name": "roiseg.decoders.unet._doublings",
    "what a module imports": "roiseg.decoders.roialign.conv_norm_relu",
    "what a module imports from torch": "roiseg.decoders.base.Tensor",
    "a module that a module imports": "roiseg.decoders.base.nn",
    "an abstract class": "roiseg.decoders.base.Decoder",
    "a constant": "roiseg.common.classes.TARGET",
    "a function that writes files": "roiseg.common.files.write_json",
    "hydra, imported by a command": "roiseg.config.build.instantiate",
    "the trainer": "roiseg.train.train",
    "a class that can write files": "roiseg.synthetic.detector_training.TinyDetector",
    "dots only": "...",
}


@pytest.mark.parametrize("target", UNTRUSTED.values(), ids=UNTRUSTED)
def test_what_no_model_is_made_of_is_not_called(target):
    with pytest.raises(UserError):
        rebuild({"_target_": target})


@pytest.mark.parametrize(
    "target",
    [
        "roiseg.decoders.roialign.Gone",
        "roiseg.decoders.gone.Decoder",
        "roiseg.decoders.a\0b.Decoder",
        "roiseg.decoders..roialign.RoiAlignDecoder",
        "roiseg.decoders.roialign.",
        "roiseg.decoders.roialign.RoiAlignDecoder.forward",
    ],
)
def test_a_part_this_version_does_not_have_is_a_user_error(target):
    with pytest.raises(UserError, match="roiseg"):
        rebuild({"_target_": target})


def test_a_hidden_node_is_not_smuggled_past_by_a_trusted_looking_call(tmp_path):
    """A tuple is not rebuilt, and hydra's `instantiate`, which a module of roiseg imports, would build it."""
    trace = tmp_path / "trace"
    inner = {"_target_": "pathlib.Path.touch", "_args_": [str(trace)]}
    with pytest.raises(UserError, match="not trusted"):
        rebuild({"_target_": "roiseg.config.build.instantiate", "config": [(inner,)]})
    assert not trace.exists()


@pytest.mark.parametrize("place", ["argument", "list"])
def test_nested_targets_are_checked_too(place, tmp_path):
    trace = tmp_path / "trace"
    evil = {"_target_": "os.system", "command": f"touch {trace}"}
    node = {**DECODER, "depth": evil} if place == "argument" else [evil]
    with pytest.raises(UserError, match="not trusted"):
        rebuild(node)
    assert not trace.exists()


def test_options_this_version_does_not_know_are_a_user_error():
    with pytest.raises(UserError, match="unheard_of"):
        rebuild({**DECODER, "unheard_of": 1}, in_channels=(5,), strides=(8,), image_size=(64, 64))


FACTS = {"in_channels": (5,), "strides": (8,), "image_size": (64, 64)}
CASCADE = {
    "_target_": "roiseg.decoders.cascade.CascadeDecoder",
    "num_classes": 2,
    "first": {**DECODER, "_partial_": True},
    "second": {**DECODER, "_partial_": True, "prior": True, "film": 2.0},
}


def test_shared_options_reach_the_base_class():
    decoder = rebuild({**DECODER, "film": 2.5, "detail": 6}, **FACTS)
    assert decoder.film.base_size == 2.5
    assert decoder.context_inputs == ("image", "pixel_size")
    assert rebuild({**DECODER, "film": None, "detail": None}, **FACTS).context_inputs == ()


@pytest.mark.parametrize(
    ("option", "value"), [("film", -1.0), ("detail", 0), ("num_classes", 7), ("roi_size", [7])]
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(UserError, match=rf"RoiAlignDecoder\.{option}` is .* must"):
        rebuild({**DECODER, option: value}, **FACTS)


def test_a_partial_node_is_the_class_with_its_options_to_be_called_later():
    make = rebuild({**DECODER, "_partial_": True})
    decoder = make(**FACTS)
    assert type(decoder) is RoiAlignDecoder
    assert (decoder.num_classes, decoder.output_size) == (2, (28, 28))
    assert make(**FACTS) is not decoder


def test_a_node_that_is_not_partial_is_called_at_once():
    assert type(rebuild({**DECODER, "_partial_": False}, **FACTS)) is RoiAlignDecoder


def test_partial_nodes_within_a_decoder_are_built_by_it():
    decoder = rebuild(CASCADE, **FACTS)
    assert (type(decoder.first), type(decoder.second)) == (RoiAlignDecoder, RoiAlignDecoder)
    assert decoder.first.film is None
    assert decoder.second.film.base_size == 2.0
    assert decoder.context_inputs == ("pixel_size",)


@pytest.mark.parametrize("option", ["unheard_of", "flim"])
@pytest.mark.parametrize("place", [None, "first", "second"])
def test_unknown_options_are_a_user_error_wherever_they_are(place, option):
    node = {**CASCADE, option: 1} if place is None else {**CASCADE, place: {**CASCADE[place], option: 1}}
    with pytest.raises(UserError, match=option):
        rebuild(node, **FACTS)


def test_options_that_a_partial_node_cannot_take_are_a_user_error_before_it_is_called():
    node = {"_target_": "roiseg.extractor.preprocess.Preprocess", "_partial_": True, "unheard_of": 1}
    with pytest.raises(UserError, match="unheard_of"):
        rebuild(node)


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "roiseg.decoders.base.Decoder"])
def test_a_partial_node_of_what_no_model_is_made_of_is_not_trusted(target):
    with pytest.raises(UserError, match="not trusted"):
        rebuild({**CASCADE, "first": {"_target_": target, "_partial_": True}}, **FACTS)


def test_errors_of_the_program_itself_are_not_hidden():
    with pytest.raises(TypeError):
        rebuild(DECODER, in_channels=5, strides=(8,), image_size=(64, 64))


def test_same_configuration_builds_the_same_graph():
    torch.manual_seed(0)
    one = rebuild(DECODER, in_channels=(5,), strides=(8,), image_size=(64, 64))
    two = rebuild(DECODER, in_channels=(5,), strides=(8,), image_size=(64, 64))
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in two.state_dict().items()
    }
