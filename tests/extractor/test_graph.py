import copy
import os

import numpy as np
import onnx
import pytest
from faults.bad_detectors import LAYER, external
from helpers import ONNX_LAYERS, make_onnx, onnx_session, run_onnx, small_onnx, user_error
from onnx import TensorProto, helper

from roiseg.common.errors import UserError
from roiseg.extractor.graph import cut_graph, load_onnx, model_digest, tensor_shapes
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess

IMAGE = np.random.default_rng(0).random((1, 3, 64, 64)).astype(np.float32)


def test_nothing_after_the_tensor_is_left(onnx_file):
    whole = load_onnx(onnx_file)
    before = copy.deepcopy(whole)
    sizes = [len(cut_graph(whole, [layer]).graph.node) for layer in ONNX_LAYERS]
    assert sizes == [4, 6, 8, 10]
    assert len(whole.graph.node) > 10
    cut = cut_graph(whole, ["/model.2/act/Relu_output_0"])
    assert [node.op_type for node in cut.graph.node] == ["Conv", "Relu", "Conv", "Relu"]
    assert len(cut.graph.initializer) == 4  # no weights of what was cut away
    assert [value.name for value in cut.graph.input] == ["images"]
    assert [output.name for output in cut.graph.output] == ["/model.2/act/Relu_output_0"]
    assert cut.ir_version == 8
    assert [(o.domain, o.version) for o in cut.opset_import] == [("", 17)]
    assert whole == before


@pytest.mark.parametrize("layers", [
    ["/model.6/Concat_output_0", "/model.2/act/Relu_output_0"],  # one is computed from the other
    ["/model.2/act/Relu_output_0", "/model.3/Concat_output_0"],
    ["/model.3/Conv_output_0", "/model.2/act/Relu_output_0"],
    [*reversed(ONNX_LAYERS), "/model.7/Flatten_output_0", "output"],
])  # fmt: skip
def test_several_tensors_are_read_in_the_order_asked(onnx_file, layers):
    cut = cut_graph(load_onnx(onnx_file), [*layers, layers[0]])
    onnx.checker.check_model(cut)
    assert [output.name for output in cut.graph.output] == layers
    wanted = run_onnx(onnx_file, {"images": IMAGE}, layers)
    for got, want in zip(onnx_session(cut).run(None, {"images": IMAGE}), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_unknown_tensor_lists_the_nearest_with_their_shapes(onnx_file):
    with pytest.raises(UserError) as caught:
        cut_graph(load_onnx(onnx_file), ["/model.4/Concat_output_0"], "tiny.onnx")
    message = str(caught.value)
    assert "tiny.onnx has no tensor `/model.4/Concat_output_0`" in message and "\n" not in message
    for near in ("/model.3/Concat_output_0 [1, 20, 16, 16]", "/model.6/Concat_output_0 [1, 32, 8, 8]"):
        assert near in message
    with pytest.raises(UserError, match=r"\d+ tensors, none similar"):
        cut_graph(load_onnx(onnx_file), ["zzz"])


def test_free_sizes_show_in_the_shapes(dynamic_onnx_file):
    shapes = tensor_shapes(onnx.shape_inference.infer_shapes(load_onnx(dynamic_onnx_file)))
    assert shapes["/model.3/Concat_output_0"] == "[N, 20, 16, 16]"
    assert "images" not in shapes


OUTPUT = {"output": [1, 3, 8, 8]}


def branch(operator, output):
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 3, 8, 8])
    return helper.make_graph([helper.make_node(operator, ["doubled"], [output])], operator, [], [value])


def test_an_input_that_only_later_parts_need_is_dropped(tmp_path):
    relu = helper.make_node("Relu", ["images"], ["features"])
    nodes = [relu, helper.make_node("Mul", ["features", "threshold"], ["output"])]
    path = small_onnx(tmp_path / "m.onnx", nodes, {}, OUTPUT, ["images", "threshold"])
    cut = cut_graph(load_onnx(path), ["features"])
    assert [value.name for value in cut.graph.input] == ["images"]
    assert [v.name for v in cut_graph(load_onnx(path), ["output"]).graph.input] == ["images", "threshold"]


def test_what_a_branch_reads_from_outside_is_kept(tmp_path):
    """The branches of an If read tensors of the outer graph without naming them as inputs."""
    then, other = branch("Relu", "a"), branch("Neg", "b")
    add = helper.make_node("Add", ["images", "images"], ["doubled"])
    choice = helper.make_node("If", ["yes"], ["features"], then_branch=then, else_branch=other)
    nodes = [add, choice, helper.make_node("Sigmoid", ["features"], ["output"])]
    path = small_onnx(tmp_path / "m.onnx", nodes, {"yes": True}, OUTPUT)
    cut = cut_graph(load_onnx(path), ["features"])
    assert [node.op_type for node in cut.graph.node] == ["Add", "If"]
    image = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8)
    (features,) = onnx_session(cut).run(["features"], {"images": image})
    np.testing.assert_array_equal(features, np.maximum(image * 2, 0))


def test_weights_listed_as_inputs_are_no_inputs(tmp_path):
    """Files of before IR 4 list every weight among the inputs."""
    mul = helper.make_node("Mul", ["images", "w"], ["features"])
    nodes = [mul, helper.make_node("Relu", ["features"], ["output"])]
    weights = {"w": np.full((1, 3, 8, 8), 2, np.float32)}
    path = small_onnx(tmp_path / "m.onnx", nodes, weights, OUTPUT, ["images", "w"])
    cut = cut_graph(load_onnx(path), ["features"])
    assert [value.name for value in cut.graph.input] == ["images"]
    image = np.ones((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(onnx_session(cut).run(["features"], {"images": image})[0], image * 2)


def test_randomly_damaged_files_give_a_graph_or_a_clear_error(tmp_path, onnx_file):
    rng = np.random.default_rng(0)
    whole = onnx_file.read_bytes()
    path = tmp_path / "model.onnx"
    for _ in range(150):
        data = bytearray(whole if rng.random() < 0.5 else rng.bytes(300))
        for _ in range(5):
            data[rng.integers(min(len(data), 3000))] = rng.integers(256)
        path.write_bytes(bytes(data))
        assert "\n" not in user_error(lambda: cut_graph(load_onnx(path), ["/model.3/Concat_output_0"]))


@pytest.mark.parametrize("name", ["x.json", "x.txt", "x.textproto", "x.onnx"])
def test_a_file_is_read_as_onnx_whatever_its_suffix(onnx_file, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(onnx_file.read_bytes())
    assert load_onnx(path).graph.name == load_onnx(onnx_file).graph.name
    path.write_text("hello")
    assert name in user_error(load_onnx, path)


LOCATIONS = {
    "an absolute path": "{folder}/outside/w.bin", "an absolute path beside it": "{folder}/nets/w.bin",
    "..": "../outside/w.bin", "a folder and ..": "inner/../../outside/w.bin", "a link to a file": "link.bin",
    "a link to a folder": "link/w.bin", "a pipe": "pipe",
}  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    nets, outside = tmp_path / "nets", tmp_path / "outside"
    (nets / "inner").mkdir(parents=True)
    path, location = make_onnx(nets / "detector.onnx"), location.format(folder=tmp_path)
    external(location, "w.bin" if "nets" in location else "../outside/w.bin")(path)
    (nets / "link.bin").symlink_to(outside / "w.bin")
    (nets / "link").symlink_to(outside)
    os.mkfifo(nets / "pipe")
    for read in (load_onnx, model_digest, lambda p: OnnxExtractor(str(p), [LAYER], Preprocess((64, 64)))):
        with pytest.raises(UserError, match=r"detector\.onnx|weights file"):
            read(path)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_every_byte_of_external_weights_changes_the_identity(tmp_path, place):
    path = make_onnx(tmp_path / "detector.onnx")
    external("parts/w.bin", "parts/w.bin")(path)
    before = model_digest(path)
    assert model_digest(path) == before
    assert OnnxExtractor(str(path), [LAYER], Preprocess((64, 64)), threads=1).digest == before
    content = bytearray((tmp_path / "parts" / "w.bin").read_bytes())
    content[place] ^= 1
    (tmp_path / "parts" / "w.bin").write_bytes(content)
    assert model_digest(path) != before
