"""The list of a detector's tensors, against runs of the whole file and MACs counted by hand."""

import numpy as np
import onnx
import pytest
from helpers import ONNX_LAYERS, make_onnx, run_onnx, small_onnx
from onnx import TensorProto, helper

from roiseg.common.errors import UserError
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.tensors import list_tensors, select

SIZE = (64, 64)
# multiply-accumulates of each convolution of `make_onnx` at 64x64
CONVOLUTIONS = [(32, 8 * 27), (16, 12 * 72), (16, 8 * 108), (8, 24 * 180), (8, 8 * 216), (8, 5 * 288)]
MACS = [side**2 * of_a_cell for side, of_a_cell in CONVOLUTIONS]


@pytest.fixture(params=[1, "N"], ids=["fixed batch", "free batch"])
def tensors(request, tmp_path):
    path = make_onnx(tmp_path / "detector.onnx", batch=request.param)
    return path, list_tensors(load_onnx(path), SIZE)


def by_name(tensors):
    return {tensor.name: tensor for tensor in tensors}


def test_shapes_are_those_of_a_run(tensors):
    path, found = tensors
    names = [tensor.name for tensor in found]
    arrays = run_onnx(path, {"images": np.zeros((1, 3, *SIZE), np.float32)}, names)
    assert [tensor.shape for tensor in found] == [array.shape for array in arrays]


def test_maps_have_their_stride_or_say_why_not_and_cost_is_the_share_of_the_convolutions_before(tensors):
    found = by_name(tensors[1])
    for name, (channels, stride) in ONNX_LAYERS.items():
        assert found[name].shape[1] == channels
        assert (found[name].stride, found[name].obstacle) == (stride, "")
    flat, whole = found["/model.7/Flatten_output_0"], found["/model.7/Shape_output_0"]
    assert flat.stride is None and "C, h, w" in flat.obstacle
    assert whole.stride is None and "int64" in whole.obstacle
    assert found["/model.1/act/Relu_output_0"].cost == pytest.approx(MACS[0] / sum(MACS))
    assert found["/model.3/Concat_output_0"].cost == pytest.approx(sum(MACS[:3]) / sum(MACS))
    assert found["/model.5/act/Relu_output_0"].cost == pytest.approx(sum(MACS[:4]) / sum(MACS))
    assert found["output"].cost == pytest.approx(1)


def test_a_branch_costs_what_it_needs_itself(tmp_path):
    weights = {f"w{c}": np.ones((c, 3, 1, 1), np.float32) for c in (1, 3)}
    nodes = [helper.make_node("Conv", ["images", f"w{c}"], [f"out{c}"]) for c in (1, 3)]
    path = small_onnx(tmp_path / "two.onnx", nodes, weights, {f"out{c}": [1, c, 8, 8] for c in (1, 3)})
    found = by_name(list_tensors(load_onnx(path), (8, 8)))
    assert [found[name].cost for name in ("out1", "out3")] == [0.25, 0.75]


def reshaped(path, target):
    """A detector whose map goes through a Reshape to `target`, a computed shape that inference cannot follow."""
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["shift"], to=TensorProto.INT64),
        helper.make_node("Add", ["target", "shift"], ["computed"]),
        helper.make_node("Reshape", ["images", "computed"], ["map"]),
        helper.make_node("Relu", ["map"], ["output"]),
    ]
    constants = {"zero": np.float32(0), "target": np.array(target, np.int64)}
    return small_onnx(path, nodes, constants, {"output": list("abcd")})


def test_what_inference_cannot_tell_a_run_does(tmp_path):
    shapes = {"a.onnx": [1, 12, 4, 4], "b.onnx": [1, 6, 8, 4], "c.onnx": [1, 7, 5, 3]}
    a, b, c = (
        by_name(list_tensors(load_onnx(reshaped(tmp_path / name, shape)), (8, 8)))["map"]
        for name, shape in shapes.items()
    )
    assert (a.shape, a.stride) == ((1, 12, 4, 4), 2)
    assert b.stride is None and "divide" in b.obstacle
    assert c.shape is None and c.obstacle == "shape unknown"  # it does not run


def test_constants_are_no_features(tmp_path):
    value = onnx.numpy_helper.from_array(np.ones((1, 1, 8, 8), np.float32))
    constant = helper.make_node("Constant", [], ["grid"], value=value)
    nodes = [constant, helper.make_node("Add", ["images", "grid"], ["output"])]
    path = small_onnx(tmp_path / "grid.onnx", nodes, {}, {"output": [1, 3, 8, 8]})
    found = by_name(list_tensors(load_onnx(path), (8, 8)))
    assert found["grid"].stride is None and "image" in found["grid"].obstacle
    assert found["output"].stride == 1


@pytest.mark.parametrize(("pattern", "names"), [
    ("Concat", ["/model.3/Concat_output_0", "/model.6/Concat_output_0"]),
    ("*concat_output_?", ["/model.3/Concat_output_0", "/model.6/Concat_output_0"]),
    ("GlobalAverage*", ["/model.7/GlobalAveragePool_output_0"]),  # the operator's name
    ("output", None), ("*", None),
])  # fmt: skip
def test_select_by_part_or_pattern(tensors, pattern, names):
    found = [tensor.name for tensor in select(tensors[1], pattern)]
    assert found == (names or [tensor.name for tensor in tensors[1]])
    with pytest.raises(UserError, match=r"/model\.6/Conct.*nearest.*/model\.6/Concat_output_0"):
        select(tensors[1], "/model.6/Conct_output_0")


@pytest.mark.realdata
def test_yolox_nano(realdata):
    """Figures of YOLOX-Nano: 1.08 GFLOPs, that is 0.54 GMACs; known strides of its pyramid."""
    found = by_name(list_tensors(load_onnx(realdata / "yolox_nano.onnx"), (416, 416)))
    strides = {name: found[name].stride for name in ("717", "952", "917", "999")}
    assert strides == {"717": 4, "952": 8, "917": 16, "999": 32}
    assert found["952"].shape == (1, 64, 52, 52)
    assert 0.5 < found["952"].cost < 0.8
    assert found["output"].stride is None
