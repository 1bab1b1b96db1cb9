"""ONNX files, and ways of reading them, that are wrong, odd or hostile.

Each case gets the path of a sound detector (`helpers.make_onnx`), may spoil it, and returns options of
`OnnxExtractor` (`onnx_path`, `layers`) and `Preprocess` (the rest) that differ from the usual.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers import make_onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

LAYER = "/model.6/Concat_output_0"


@dataclass(frozen=True)
class BadDetector:
    """A detector and what becomes of it."""

    spoil: Callable[[Path], object]  # gets the path of a sound file
    words: tuple[str, ...] = ()  # of the line that refuses it; empty: it is read
    options: dict[str, Any] = field(default_factory=dict)  # that differ from the usual


def option(*words, **options):
    return BadDetector(lambda path: None, words, options)


def data(content: bytes):
    return BadDetector(lambda path: path.write_bytes(content), (FILE, UNUSABLE))


def cut(share):
    return BadDetector(lambda path: os.truncate(path, int(path.stat().st_size * share)), (FILE,))


def model(change: Callable[[onnx.ModelProto], object], *words: str, **options: Any) -> BadDetector:
    def spoil(path):
        loaded = onnx.load(str(path))
        change(loaded)
        path.write_bytes(loaded.SerializeToString())

    return BadDetector(spoil, words, options)


def made(*words, options=None, **how):
    return BadDetector(lambda path: make_onnx(path, **how), words, options or {})


def opset(version, *words):
    return model(lambda m: setattr(m.opset_import[0], "version", version), *words)


def with_weights(change):
    """Replace the first weight by what `change` makes of it."""

    def replace(loaded):
        weight = loaded.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), weight.name))

    return replace


def foreign_operator(loaded):
    loaded.graph.node[0].domain = "com.nobody"
    loaded.opset_import.append(helper.make_opsetid("com.nobody", 1))


def second_input(loaded):
    loaded.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1, 8, 32, 32]))
    loaded.graph.node.insert(1, helper.make_node("Mul", ["/model.1/Conv_output_0", "scale"], ["scaled"]))
    loaded.graph.node[2].input[0] = "scaled"


def free_sides(loaded):
    for dimension, name in zip(loaded.graph.input[0].type.tensor_type.shape.dim, "NCHW", strict=True):
        dimension.dim_param = name


def external(location: str, where: str | None = None, share: float = 1.0):
    """Weights in a file of their own: named `location` in the model, lying at `where` (None: nowhere)."""

    def spoil(path):
        loaded = onnx.load(str(path))
        store = b""
        for weight in loaded.graph.initializer:
            raw = numpy_helper.to_array(weight).tobytes()
            weight.ClearField("float_data")
            weight.raw_data = raw
            external_data_helper.set_external_data(weight, location, offset=len(store), length=len(raw))
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            store += raw
        path.write_bytes(loaded.SerializeToString())
        if where is None:
            return
        target = path.parent / where
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(store[: int(len(store) * share)])

    return spoil


def renamed(old: str, new: str):
    """Give a tensor another name."""

    def rename(loaded):
        for value in (*loaded.graph.output, *loaded.graph.value_info):
            value.name = new if value.name == old else value.name
        for node in loaded.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return rename


def local_functions(loaded):
    """Every Relu becomes the call of a function of the file's own."""
    opset = helper.make_opsetid("", loaded.opset_import[0].version)
    body = [helper.make_node("Relu", ["x"], ["y"])]
    loaded.functions.append(helper.make_function("own", "Act", ["x"], ["y"], body, [opset]))
    loaded.opset_import.append(helper.make_opsetid("own", 1))
    for node in loaded.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Act", "own"


def one_image_inside(mixed: bool):
    """A free batch that the features do not have: a reshape to one image, or one that mixes images up."""

    def spoil(path):
        loaded = onnx.load(str(make_onnx(path, batch="N")))
        nodes = loaded.graph.node
        place = next(place for place, node in enumerate(nodes, 1) if LAYER in node.output)
        nodes[place - 1].output[0] = "plain"
        shapes = {"inner": [32, -1, 64] if mixed else [1, 32, 8, 8], "outer": [-1, 32, 8, 8]}
        for name, shape in shapes.items():
            loaded.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{name} shape"))
        more = [
            helper.make_node("Reshape", ["plain", "inner shape"], ["inner"]),
            helper.make_node("Transpose", ["inner"], ["turned"], perm=[1, 0, 2] if mixed else [0, 1, 2, 3]),
            helper.make_node("Reshape", ["turned", "outer shape"], [LAYER]),
        ]
        for number, node in enumerate(more):
            nodes.insert(place + number, node)
        path.write_bytes(loaded.SerializeToString())

    return spoil


def element_type(end, kind, *words):
    return model(lambda m: setattr(getattr(m.graph, end)[0].type.tensor_type, "elem_type", kind), *words)


def sequence_output(loaded):
    loaded.graph.node.append(helper.make_node("SequenceConstruct", [LAYER], ["sequence"]))
    del loaded.graph.output[:]
    loaded.graph.output.append(helper.make_tensor_sequence_value_info("sequence", TensorProto.FLOAT, None))


def properties(loaded):
    helper.set_model_props(loaded, {"names": "{0: '[/x]'}", "": "", "stride": "\x00\n"})
    loaded.producer_name, loaded.model_version = "[/x]\n", -5


FILE, UNUSABLE = "detector.onnx", "is not a usable ONNX model"
NO_TENSOR = "has no tensor"

FILES = {
    "empty": BadDetector(lambda path: path.write_bytes(b""), (FILE,)),
    "text": data(b"this is no network\n" * 20),
    "git lfs pointer": data(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    **{f"cut at {round(100 * share)} %": cut(share) for share in (0.01, 0.1, 0.5, 0.9, 0.99)},
    "absent": BadDetector(Path.unlink, (FILE, "not found", "extractor.onnx_path")),
    "folder": BadDetector(lambda path: (path.unlink(), path.mkdir()), (FILE, "is a folder")),
    "not set": option("extractor ONNX file is not set", "extractor.onnx_path", onnx_path=""),
    "no graph": model(lambda m: m.ClearField("graph"), FILE),
    "no nodes": model(lambda m: m.graph.ClearField("node"), FILE),
    "no opset": model(lambda m: m.ClearField("opset_import"), FILE),
    "opset 5": opset(5, FILE), "opset 11": opset(11), "opset 13": opset(13), "opset 99": opset(99, FILE),
    "format 99": model(lambda m: setattr(m, "ir_version", 99), FILE),
    "a loop": model(lambda m: m.graph.node[0].input.__setitem__(0, LAYER), FILE),
    "an unknown operator": model(lambda m: setattr(m.graph.node[0], "op_type", "Consolution"), FILE),
    "an operator of another maker": model(foreign_operator, FILE),
    "weights of another shape": model(with_weights(lambda w: w[:, :2]), FILE),
    "weights that are not numbers": model(with_weights(lambda w: w * np.nan), FILE, LAYER, "nan"),
    "weights that are infinite": model(with_weights(lambda w: w * np.inf), FILE, LAYER),
    "no weights": model(lambda m: m.graph.ClearField("initializer"), FILE),
    "external weights": BadDetector(external("weights.bin", "weights.bin")),
    "external weights in a folder": BadDetector(external("parts/weights.bin", "parts/weights.bin")),
    "external weights that are absent": BadDetector(external("weights.bin"), (FILE,)),
    "external weights cut in half": BadDetector(external("weights.bin", "weights.bin", share=0.5), (FILE,)),
    "external weights in a device": BadDetector(external("/dev/zero"), (FILE,)),
}  # fmt: skip

TENSORS = {
    "no layers": option("extractor.layers is empty", layers=[]),
    "an unknown tensor": option("extractor.layers", NO_TENSOR, "/model.6/Concat_output_0", layers=["/model.6/Concat_output"]),
    "a tensor of another network": option("extractor.layers", NO_TENSOR, layers=["/backbone/stage4/add_1"]),
    "one known, one unknown": option("extractor.layers", "`nothing`", layers=[LAYER, "nothing"]),
    "the input": option("extractor.layers", "`images`", layers=["images"]),
    "a weight": option("extractor.layers", NO_TENSOR, layers=["/model.1/Conv_output_0.weight"]),
    "an empty name": option("extractor.layers", layers=[""]),
    "a number": option("extractor.layers", layers=7),
    "the output": option("extractor.layers", "[1, 5]", layers=["output"]),
    "a shape": option("extractor.layers", "int64", layers=["/model.7/Shape_output_0"]),
    "one name in place of a list": option(layers=LAYER),
    "one tensor twice": option("extractor.layers names a tensor twice", layers=[LAYER, LAYER]),
    "tensors of two sizes": option(layers=["/model.3/Concat_output_0", LAYER]),
}  # fmt: skip

INPUTS = {
    "free batch": made(batch="N"), "fixed batch of 1": made(batch=1),
    "fixed batch of 4": made(FILE, "fixed batch of 4", batch=4),
    "everything free": model(free_sides), "half precision": made(dtype="float16"),
    "another input size": made("image_size", FILE, size=(32, 32)),
    "an input of four channels": made("image_size", FILE, color_channels=4),
    "two inputs": model(second_input, FILE, "scale"),
    "no input": model(lambda m: m.graph.ClearField("input"), FILE),
    "an input of whole numbers": element_type("input", TensorProto.UINT8, FILE),
    "an input in double precision": element_type("input", TensorProto.DOUBLE, FILE),
    "an input without a shape": model(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), FILE),
    "an input of two dimensions": model(lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), FILE),
    "image_size of nothing": option("image_size", image_size=[0, 64]),
    "image_size of one number": option("image_size", image_size=[64]),
    "image_size of three": option("image_size", image_size=[64, 64, 3]),
    "image_size of the other side": option("image_size", image_size=[64, 32]),
    "color in the middle": option("color", color="hsv"), "divisor of nothing": option("divisor", divisor=0),
    "divisor nan": option("divisor", divisor=float("nan")),
    "mean of two": option("mean", mean=[0.5, 0.5]), "std of nothing": option("std", std=[0, 1, 1]),
    "align nowhere": option("align", align="left"),
    "grey beyond white": option("pad_value", pad_value=300),
    "unknown provider": option("extractor.providers", "NoneProvider", providers=["NoneProvider"]),
    "threads below 0": option("extractor.threads", threads=-5),
}  # fmt: skip

ODD = {
    "a free batch that is one inside": BadDetector(one_image_inside(mixed=False)),
    "a free batch whose images are mixed up inside": BadDetector(one_image_inside(mixed=True)),
    "local functions": model(local_functions),
    "an output without a type": element_type("output", TensorProto.UNDEFINED),
    "an output of words": element_type("output", TensorProto.STRING),
    "an output in 8 bits": element_type("output", TensorProto.FLOAT8E4M3FN),
    "an output that is a sequence": model(sequence_output),
    "no output": model(lambda m: m.graph.ClearField("output")),
    "a negative side": model(lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", -1)),
    "a name with markup": model(renamed("/model.5/Conv_output_0", "[/x]")),
    "a name of two lines": model(renamed("output", "out\nput[/red]")),
    "odd properties": model(properties),
}  # fmt: skip

DETECTORS = FILES | TENSORS | INPUTS | ODD
