from __future__ import annotations

import hashlib

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from faults.bad_detectors import external
from helpers import ONNX_LAYERS, make_onnx, run_onnx, save_onnx
from onnx import TensorProto, helper, numpy_helper

from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess

SIZE = (64, 64)
LAYERS = list(ONNX_LAYERS)


def pictures(count, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *size, 3), generator=generator).byte()


def extractor_of(path, layers, size=SIZE, **options):
    return OnnxExtractor(str(path), layers, Preprocess(size, **options), threads=1)


def direct(path, images, layers, input_name="images"):
    """The whole detector, image by image, with the tensors as additional outputs."""
    feeds = [
        image[None].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255) for image in images.numpy()
    ]
    runs = [run_onnx(path, {input_name: feed}, layers) for feed in feeds]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


# --- preprocessing --------------------------------------------------------------------------------


def naive_tensor(images, color, divisor, mean, std):
    count, height, width, _ = images.shape
    result = np.zeros((count, 3, height, width))
    for n in range(count):
        for c in range(3):
            source = c if color == "rgb" else 2 - c
            for y in range(height):
                for x in range(width):
                    result[n, c, y, x] = (float(images[n, y, x, source]) / divisor - mean[c]) / std[c]
    return result


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("divisor", "mean", "std"),
    [
        (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # YOLOv5 to v9
        (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # YOLOX
        (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (1.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        (127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_the_input_tensor_is_what_naive_arithmetic_gives(color, divisor, mean, std):
    images = pictures(2, (5, 7))
    before = images.clone()
    tensor = Preprocess((5, 7), color=color, divisor=divisor, mean=mean, std=std)(images)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert torch.equal(images, before)
    want = naive_tensor(images.numpy(), color, divisor, mean, std)
    np.testing.assert_allclose(tensor.numpy(), want, atol=1e-5, rtol=1e-6)


# --- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [*([layer] for layer in LAYERS), LAYERS, LAYERS[::-1], [LAYERS[3], LAYERS[0]]]
)
def test_features_equal_those_of_the_whole_detector_in_the_order_asked(onnx_file, layers):
    extractor = extractor_of(onnx_file, layers)
    images = pictures(3)
    channels, strides = zip(*(ONNX_LAYERS[layer] for layer in layers), strict=True)
    assert (extractor.channels, extractor.strides) == (channels, strides)
    for got, want in zip(extractor(images), direct(onnx_file, images, layers), strict=True):
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_free_batch_and_a_batch_of_one_give_the_same(onnx_file, dynamic_onnx_file, count):
    images = pictures(count)
    one, free = extractor_of(onnx_file, LAYERS), extractor_of(dynamic_onnx_file, LAYERS)
    for a, b in zip(one(images), free(images), strict=True):
        assert len(a) == count
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_earlier_features_are_not_overwritten_by_later_calls(dynamic_onnx_file):
    extractor = extractor_of(dynamic_onnx_file, LAYERS[0])
    (first,) = extractor(pictures(2, seed=1))
    before = first.clone()
    extractor(pictures(2, seed=2))
    assert torch.equal(first, before)


def test_pictures_in_any_memory_layout_are_read_right(dynamic_onnx_file):
    extractor = extractor_of(dynamic_onnx_file, LAYERS[0])
    images = pictures(2)
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(extractor(images)[0], extractor(strided)[0])


def test_an_fp16_detector_takes_and_gives_float32_at_the_border(tmp_path, onnx_file):
    half = make_onnx(tmp_path / "half.onnx", dtype="float16")
    images = pictures(2)
    features = extractor_of(half, LAYERS)(images)
    for got, want in zip(features, extractor_of(onnx_file, LAYERS)(images), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)


def test_features_can_be_trained_on(onnx_file):
    (features,) = extractor_of(onnx_file, LAYERS[0])(pictures(1))
    assert not features.requires_grad
    weight = torch.ones(12, requires_grad=True)
    (features * weight[:, None, None]).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=(0, 2, 3)))


def test_the_file_is_not_touched(tmp_path):
    path = make_onnx(tmp_path / "m.onnx")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    extractor = extractor_of(path, LAYERS)
    extractor(pictures(2))
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == stamp
    assert extractor.digest == hashlib.sha256(before).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_identity_covers_weights_in_a_file_of_their_own(tmp_path):
    path = make_onnx(tmp_path / "detector.onnx")
    external("weights.bin", "weights.bin")(path)
    before, graph = extractor_of(path, LAYERS), path.read_bytes()
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[3] ^= 0x40
    (tmp_path / "weights.bin").write_bytes(weights)
    after = extractor_of(path, LAYERS)
    assert path.read_bytes() == graph
    assert before.digest != after.digest
    assert before.identity != after.identity


def test_the_users_detector_by_its_input_tensor_name_and_shape(tmp_path):
    """As `yolov9_e_wholebody25_0100_1x3x640x640`: `/model.34/Concat_output_0` [1, 1024, 80, 80]."""
    layer, rng = "/model.34/Concat_output_0", np.random.default_rng(0)
    weight = rng.normal(0, 1, (512, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["/model.33/Conv_output_0"], strides=[8, 8]),
        helper.make_node("Relu", ["/model.33/Conv_output_0"], ["/model.33/Relu_output_0"]),
        helper.make_node("Concat", ["/model.33/Conv_output_0", "/model.33/Relu_output_0"], [layer], axis=1),
        helper.make_node("ReduceMean", [layer], ["output0"], axes=[2, 3], keepdims=0),
    ]
    path = save_onnx(
        tmp_path / "yolov9_e.onnx",
        nodes,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 640, 640])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 1024])],
        [numpy_helper.from_array(weight, "w")],
    )
    extractor = extractor_of(path, [layer], (640, 640))
    assert (extractor.channels, extractor.strides) == ((1024,), (8,))
    images = pictures(2, (640, 640))
    (features,) = extractor(images)
    assert features.shape == (2, 1024, 80, 80)
    pixels = images[:, ::8, ::8].numpy().astype(np.float64) / 255
    want = np.einsum("oc,nhwc->nohw", weight[:, :, 0, 0].astype(np.float64), pixels)
    np.testing.assert_allclose(features[:, :512].numpy(), want, atol=1e-5)
    np.testing.assert_allclose(features[:, 512:].numpy(), np.maximum(want, 0), atol=1e-5)


def test_what_makes_the_file_runs_before_it_is_read(tmp_path):
    path = tmp_path / "made.onnx"

    class Source:
        def makes(self, wanted):
            return wanted == str(path)

        def ensure(self):
            make_onnx(path)

    assert OnnxExtractor(str(path), LAYERS[0], Preprocess(SIZE), source=Source()).channels == (12,)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_map_of_one_cell_is_a_map(onnx_file):
    assert extractor_of(onnx_file, "/model.7/GlobalAveragePool_output_0").strides == (64,)


def test_cells_that_do_not_tile_the_input_are_refused(tmp_path):
    weights = [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")]
    nodes = [helper.make_node("Conv", ["images", "w"], ["valid"]), helper.make_node("Relu", ["valid"], ["o"])]
    path = save_onnx(
        tmp_path / "m.onnx",
        nodes,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 4, 62, 62])],
        weights,
    )
    with pytest.raises(UserError, match=r"\[1, 4, 62, 62\].* divide the input 64x64 evenly"):
        extractor_of(path, "valid")


# --- a real detector ------------------------------------------------------------------------------

YOLOX = {"931": (128, 52, 52), "952": (64, 52, 52), "777": (64, 52, 52), "717": (32, 104, 104)}


@pytest.mark.realdata
def test_a_real_detector_gives_the_documented_features_of_real_pictures(realdata):
    path = realdata / "yolox_nano.onnx"
    preprocess = Preprocess((416, 416), "topleft", color="bgr", divisor=1)
    extractor = OnnxExtractor(str(path), list(YOLOX), preprocess, threads=2)
    assert extractor.channels == (128, 64, 64, 32)
    assert extractor.strides == (8, 8, 8, 4)
    files = sorted((realdata / "coco128_person/images/val2017").glob("*.jpg"))[:2]
    inputs, letterboxed = [], []
    for file in files:
        bgr = cv2.imread(str(file))
        # YOLOX's own preprocessing
        ratio = min(416 / bgr.shape[0], 416 / bgr.shape[1])
        padded = np.full((416, 416, 3), 114, np.uint8)
        size = int(bgr.shape[1] * ratio), int(bgr.shape[0] * ratio)
        padded[: size[1], : size[0]] = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
        inputs.append(padded.transpose(2, 0, 1)[None].astype(np.float32))
        rgb = np.ascontiguousarray(bgr[:, :, ::-1])
        letterboxed.append(preprocess.letterbox.apply(rgb, preprocess.letterbox.fit(*rgb.shape[:2])))
    features = extractor(torch.from_numpy(np.stack(letterboxed)))
    for n, feed in enumerate(inputs):
        wanted = run_onnx(path, {"images": feed}, list(YOLOX))
        for got, want, shape in zip(features, wanted, YOLOX.values(), strict=True):
            assert got[n].shape == shape
            np.testing.assert_allclose(got[n].numpy(), want[0], atol=1e-3, rtol=1e-3)
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in whole.get_outputs()] == ["output"]
