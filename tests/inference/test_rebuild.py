import pytest

from roiseg.common.errors import UserError
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.rebuild import rebuild, rebuild_as

ROIALIGN = "roiseg.decoders.roialign.RoiAlignDecoder"
DECODER = {"_target_": ROIALIGN, "num_classes": 2, "output_size": [28, 28], "mid_channels": 8}
FACTS = {"in_channels": (5,), "strides": (8,), "image_size": (64, 64)}
CASCADE = {
    "_target_": "roiseg.decoders.cascade.CascadeDecoder",
    "num_classes": 2,
    "first": {**DECODER, "_partial_": True},
    "second": {**DECODER, "_partial_": True, "prior": True, "film": 2.0},
}
PREPROCESS = {"_target_": "roiseg.extractor.preprocess.Preprocess", "image_size": [32, 48], "color": "bgr"}


def test_builds_the_class_with_its_options_at_once_or_when_a_partial_node_is_called():
    later = rebuild({**DECODER, "_partial_": True})
    made = [rebuild(DECODER, **FACTS), later(**FACTS), later(**FACTS)]
    for decoder in made:
        assert type(decoder) is RoiAlignDecoder
        assert (decoder.num_classes, decoder.output_size, decoder.in_channels) == (2, (28, 28), (5,))
    assert len({id(decoder) for decoder in made}) == 3


def test_builds_nested_nodes_first_and_leaves_plain_values():
    plain = [None, 3, 0.5, "text", True, [1, [2, "x"]], {"a": {"b": [1]}}]
    built = rebuild({"plain": {"inner": PREPROCESS}, "list": [PREPROCESS, *plain]})
    assert isinstance(built["plain"]["inner"], Preprocess)
    assert isinstance(built["list"][0], Preprocess)
    assert built["list"][1:] == plain


UNTRUSTED = [
    "os.system", "subprocess.Popen", "builtins.exec", "system", "", "...", "roiseg.decoders",
    "roisegevil.decoders.Decoder",  # a name that only begins alike
    "roiseg.decoders.unet._doublings",  # private
    "roiseg.decoders.roialign.conv_norm_relu", "roiseg.decoders.base.Tensor", "roiseg.decoders.base.nn",  # imports
    "roiseg.decoders.base.Decoder",  # abstract
    "roiseg.common.classes.TARGET",  # a constant
    "roiseg.common.files.write_json", "roiseg.common.package_files.ShippedFile",  # write files
    "roiseg.config.build.instantiate", "roiseg.train.train",
]  # fmt: skip


@pytest.mark.parametrize("target", UNTRUSTED)
def test_what_no_model_is_made_of_is_not_called(target):
    with pytest.raises(UserError):
        rebuild({"_target_": target})
    with pytest.raises(UserError):
        rebuild({**CASCADE, "first": {"_target_": target, "_partial_": True}}, **FACTS)


@pytest.mark.parametrize("target", [
    "roiseg.decoders.roialign.Gone", "roiseg.decoders.gone.Decoder", "roiseg.decoders.a\0b.Decoder",
    "roiseg.decoders..roialign.RoiAlignDecoder", "roiseg.decoders.roialign.",
    "roiseg.decoders.roialign.RoiAlignDecoder.forward",
])  # fmt: skip
def test_a_part_this_version_does_not_have_is_a_user_error(target):
    with pytest.raises(UserError, match="roiseg"):
        rebuild({"_target_": target})


@pytest.mark.parametrize("node", [PREPROCESS, {"a": 1}, [PREPROCESS], 5, None])
def test_another_object_than_the_wanted_one_is_refused_also_within_another(node):
    with pytest.raises(UserError, match="not RoiAlignDecoder"):
        rebuild_as(RoiAlignDecoder, node)
    extractor = "roiseg.extractor.onnx_extractor.OnnxExtractor"
    inner = {"_target_": "roiseg.extractor.cache.codec.Half"}
    with pytest.raises(UserError, match=r"preprocess` is .* must be an instance of Preprocess"):
        rebuild({"_target_": extractor, "onnx_path": "x", "layers": ["a"], "preprocess": inner})


@pytest.mark.parametrize(
    ("option", "value"), [("film", -1.0), ("detail", 0), ("num_classes", 7), ("roi_size", [7])]
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(UserError, match=rf"RoiAlignDecoder\.{option}` is .* must"):
        rebuild({**DECODER, option: value}, **FACTS)


def test_partial_nodes_within_a_decoder_are_built_by_it():
    decoder = rebuild(CASCADE, **FACTS)
    assert (type(decoder.first), type(decoder.second)) == (RoiAlignDecoder, RoiAlignDecoder)
    assert decoder.first.film is None
    assert decoder.second.film.base_size == 2.0
    assert decoder.context_inputs == ("pixel_size",)


def test_unknown_options_are_a_user_error_wherever_they_are_and_errors_of_the_program_are_not():
    for node in (
        {**CASCADE, "flim": 1},
        {**CASCADE, "second": {**CASCADE["second"], "flim": 1}},
        {**CASCADE, "first": {**PREPROCESS, "_partial_": True, "flim": 1}},  # before it is called
    ):
        with pytest.raises(UserError, match="flim"):
            rebuild(node, **FACTS)
    with pytest.raises(TypeError):
        rebuild(DECODER, **{**FACTS, "in_channels": 5})
