"""Heads of several tensors, in small ONNX files, read with the adapters of conf/postprocess."""

import numpy as np
import onnx
import pytest
import torch
from composing import composed
from helpers import save_onnx
from hydra.utils import instantiate
from onnx import TensorProto, helper, numpy_helper
from slow_heads import assert_found, choose

from roiseg.common.errors import UserError
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.output import HEAD
from roiseg.extractor.preprocess import Preprocess
from roiseg.extractor.tensors import image_input, list_tensors

SIZE, ROWS, CLASSES = (64, 96), 20, 3
LAYER = "features"


def head_file(path, tensors):
    """A detector whose head gives `tensors` (name -> array) times the image's mean: of white itself."""
    weights = {"weight": np.full((2, 3, 8, 8), 1 / 192, np.float32), "flat": np.array([1], np.int64)}
    weights |= {f"{name} value": value for name, value in tensors.items()}
    nodes = [
        helper.make_node("Conv", ["images", "weight"], [LAYER], strides=[8, 8]),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "flat"], ["brightness"]),
    ]
    outputs = []
    for name, value in tensors.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Cast", ["brightness"], [f"{name} light"], to=kind))
        nodes.append(helper.make_node("Mul", [f"{name} value", f"{name} light"], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, value.shape))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return save_onnx(path, nodes, [image], outputs, constants)


def adapter(name, tmp_path, **options):
    """The adapter `postprocess=name`."""
    given = [f"postprocess@extractor.postprocess={name}"]
    given += [f"extractor.postprocess.{key}={value}" for key, value in options.items()]
    return instantiate(composed(given, tmp_path).extractor.postprocess, _convert_="all")


def truth(seed=0):
    """Boxes [N, 4] in pixels, class probabilities [N, C] of which no two are near."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 70, (ROWS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (ROWS, 2))], axis=1)
    return boxes, rng.permutation(np.linspace(0.02, 0.3, ROWS * CLASSES)).reshape(ROWS, CLASSES)


def cxcywh(boxes):
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + sizes / 2, sizes], axis=1) / [96, 64, 96, 64]


def logits(share):
    return np.log(share / (1 - share))


def heads():
    """Name of the adapter -> the tensors a file gives, whose classes the adapter's labels count."""
    boxes, shares = truth()
    best, label = shares.max(axis=1), shares.argmax(axis=1)
    nothing = np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)
    raw = {
        "detr": {"logits": np.log(nothing)[None] + 2, "pred_boxes": cxcywh(boxes)[None]},
        "rtdetr": {"pred_boxes": cxcywh(boxes)[None], "logits": logits(shares)[None]},
        "yolo_nas": {"913": boxes[None], "904": shares[None]},
        "efficient_nms": {
            "num_dets": np.array([[15]], np.int32), "det_boxes": boxes[None], "det_scores": best[None],
            "det_classes": label.astype(np.int32)[None],
        },
        "torchvision": {"boxes": boxes, "labels": label, "scores": best},
    }  # fmt: skip
    return {
        name: {key: v.astype(np.float32) if v.dtype == float else v for key, v in tensors.items()}
        for name, tensors in raw.items()
    }


def opened(path, detector):
    return OnnxExtractor(str(path), [LAYER], Preprocess(SIZE), threads=1, postprocess=detector)


@pytest.mark.parametrize("name", heads())
def test_a_head_of_several_tensors_gives_its_boxes(name, tmp_path):
    detector = adapter(name, tmp_path, score_threshold=0.1, labels="[2,1]")
    path = head_file(tmp_path / "d.onnx", heads()[name])
    _, (found,) = opened(path, detector).run_with_detections(torch.ones(1, 3, *SIZE))
    boxes, shares = truth()
    finished = name in ("efficient_nms", "torchvision")
    rows = []
    for box, of_classes in list(zip(boxes, shares, strict=True))[: 15 if name == "efficient_nms" else ROWS]:
        label = int(of_classes.argmax()) if finished else max((1, 2), key=lambda k: of_classes[k])
        if label in (1, 2):
            rows.append((list(box), float(of_classes[label]), label))
    wanted = choose(rows, SIZE, 0.1, 0.45 if name == "yolo_nas" else None, 100)
    assert len(wanted) > 3
    assert_found(found, wanted, atol=1e-3)


def with_size_input(path, name, dtype, width_first):
    """Boxes that a file scales from 0..1 by an input beside the image, as RT-DETR's and Paddle's exports do."""
    boxes, shares = truth()
    best, label = shares.max(axis=1).astype(np.float32), shares.argmax(axis=1)
    head_file(path, {"boxes": (boxes / [96, 64, 96, 64]).astype(np.float32), "labels": label, "scores": best})
    model = onnx.load(str(path))
    sides = numpy_helper.from_array(np.array([0, 1, 0, 1] if width_first else [1, 0, 1, 0]), "sides")
    model.graph.initializer.append(sides)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model.graph.input.append(helper.make_tensor_value_info(name, kind, ["N", 2]))
    model.graph.node[-5].output[0] = "shares"
    assert model.graph.node[-5].op_type == "Mul"
    model.graph.node.extend([
        helper.make_node("Cast", [name], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["sizes", "sides"], ["corners"], axis=1),
        helper.make_node("Mul", ["shares", "corners"], ["boxes"]),
    ])  # fmt: skip
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "width_first"), [("orig_target_sizes", "int64", True), ("im_shape", "float32", False)]
)
def test_an_input_for_the_images_size_is_given_the_detectors_own(tmp_path, name, dtype, width_first):
    path = with_size_input(tmp_path / "d.onnx", name, dtype, width_first)
    detector = adapter("torchvision", tmp_path, score_threshold=0.01, labels="[0,1,2]")
    extractor = opened(path, detector)
    assert extractor.input_name == "images"
    _, (found,) = extractor.run_with_detections(torch.ones(1, 3, *SIZE))
    boxes, shares = truth()
    order = np.argsort(-shares.max(axis=1))
    np.testing.assert_allclose(found.boxes[:5], np.clip(boxes[order[:5]], 0, [96, 64, 96, 64]), atol=1e-3)
    model = load_onnx(path)
    assert image_input(model).name == "images"
    assert "boxes" in [tensor.name for tensor in list_tensors(model, SIZE, str(path))]


def test_boxes_that_depend_on_an_unknown_input_are_refused_in_a_line(tmp_path):
    path = with_size_input(tmp_path / "d.onnx", "camera", "float32", True)
    extractor = opened(path, adapter("torchvision", tmp_path))
    with pytest.raises(UserError, match=r"d\.onnx depend on an input beside the image \(camera \[\?, 2\]\)"):
        extractor.head()


def test_tensors_of_one_shape_are_told_apart_by_name_or_named(tmp_path):
    """Four classes: scores have the shape of the boxes."""
    boxes = cxcywh(truth()[0])[None].astype(np.float32)
    path = head_file(tmp_path / "d.onnx", {"a": boxes * 0 - 5, "b": boxes})
    words = r"cannot be distinguished .*a \[1, 20, 4\], b .*extractor\.postprocess\.output"
    with pytest.raises(UserError, match=words):
        opened(path, adapter("rtdetr", tmp_path)).head()
    named = opened(path, adapter("rtdetr", tmp_path, output="[b,a]"))
    assert named.head() == (HEAD, (ROWS, 8))
    path = head_file(tmp_path / "e.onnx", {"logits": boxes * 0 - 5, "boxes": boxes})
    assert opened(path, adapter("rtdetr", tmp_path)).head() == (HEAD, (ROWS, 8))


@pytest.mark.parametrize(("name", "options", "words"), [
    ("rtdetr", {}, r"boxes, class scores are not all among the outputs .*num_dets \[1, 1\]"),
    ("rtdetr", {"output": "[det_boxes]"}, r"output must name 2 \(boxes, class scores\)"),
    ("rtdetr", {"output": "[det_boxes,nothing]"}, r"output: .*no tensor `nothing`"),
    ("rtdetr", {"output": "[det_boxes,det_scores]"}, r"class scores do not fit .*det_scores \[1, 20\]"),
    ("yolo", {"output": "[det_boxes,det_scores]"}, r"output must name 1 \(boxes\)"),
])  # fmt: skip
def test_a_head_that_is_another_is_refused(name, options, words, tmp_path):
    path = head_file(tmp_path / "d.onnx", heads()["efficient_nms"])
    with pytest.raises(Exception, match=words) as caught:
        opened(path, adapter(name, tmp_path, **options)).head()
    assert isinstance(caught.value.__cause__ or caught.value, UserError)
