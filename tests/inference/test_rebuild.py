from __future__ import annotations

import pytest

from roiseg.common.errors import UserError
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.rebuild import rebuild, rebuild_as

DECODER = {
    "_target_": "roiseg.decoders.roialign.RoiAlignDecoder",
    "num_classes": 2,
    "output_size": [28, 28],
    "mid_channels": 8,
}
FACTS = {"in_channels": (5,), "strides": (8,), "image_size": (64, 64)}
CASCADE = {
    "_target_": "roiseg.decoders.cascade.CascadeDecoder",
    "num_classes": 2,
    "first": {**DECODER, "_partial_": True},
    "second": {**DECODER, "_partial_": True, "prior": True, "film": 2.0},
}
PREPROCESS = {"_target_": "roiseg.extractor.preprocess.Preprocess", "image_size": [32, 48], "color": "bgr"}


def test_builds_the_class_with_its_options():
    decoder = rebuild(DECODER, **FACTS)
    assert type(decoder) is RoiAlignDecoder
    assert (decoder.num_classes, decoder.output_size, decoder.in_channels) == (2, (28, 28), (5,))


def test_builds_nested_nodes_first_and_leaves_plain_values():
    plain = [None, 3, 0.5, "text", True, [1, [2, "x"]], {"a": {"b": [1]}}]
    built = rebuild({"plain": {"inner": PREPROCESS}, "list": [PREPROCESS, *plain]})
    assert isinstance(built["plain"]["inner"], Preprocess)
    assert isinstance(built["list"][0], Preprocess)
    assert built["list"][1:] == plain


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
    "a class that can write files": "roiseg.common.package_files.ShippedFile",
    "dots only": "...",
}


@pytest.mark.parametrize("target", UNTRUSTED.values(), ids=UNTRUSTED)
def test_what_no_model_is_made_of_is_not_called(target):
    with pytest.raises(UserError):
        rebuild({"_target_": target})
    with pytest.raises(UserError):
        rebuild({**CASCADE, "first": {"_target_": target, "_partial_": True}}, **FACTS)


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


@pytest.mark.parametrize("node", [PREPROCESS, {"a": 1}, [PREPROCESS], 5, None])
def test_another_object_than_the_wanted_one_is_refused(node):
    with pytest.raises(UserError, match="not RoiAlignDecoder"):
        rebuild_as(RoiAlignDecoder, node)


def test_a_nested_object_of_another_class_is_refused():
    extractor = "roiseg.extractor.onnx_extractor.OnnxExtractor"
    with pytest.raises(UserError, match=r"preprocess` is .* must be an instance of Preprocess"):
        rebuild(
            {
                "_target_": extractor,
                "onnx_path": "x",
                "layers": ["a"],
                "preprocess": {"_target_": "roiseg.extractor.cache.codec.Half"},
            }
        )


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


def test_partial_nodes_within_a_decoder_are_built_by_it():
    decoder = rebuild(CASCADE, **FACTS)
    assert (type(decoder.first), type(decoder.second)) == (RoiAlignDecoder, RoiAlignDecoder)
    assert decoder.first.film is None
    assert decoder.second.film.base_size == 2.0
    assert decoder.context_inputs == ("pixel_size",)


@pytest.mark.parametrize(
    "node",
    [
        {**CASCADE, "flim": 1},
        {**CASCADE, "second": {**CASCADE["second"], "flim": 1}},
        {**CASCADE, "first": {**PREPROCESS, "_partial_": True, "flim": 1}},  # before it is called
    ],
    ids=["decoder", "within a decoder", "partial"],
)
def test_unknown_options_are_a_user_error_wherever_they_are(node):
    with pytest.raises(UserError, match="flim"):
        rebuild(node, **FACTS)


def test_errors_of_the_program_itself_are_not_hidden():
    with pytest.raises(TypeError):
        rebuild(DECODER, **{**FACTS, "in_channels": 5})
