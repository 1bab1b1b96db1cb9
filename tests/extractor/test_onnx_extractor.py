import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ONNX_LAYERS, ROOT, make_onnx, run_onnx, small_onnx
from onnx import helper

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


def direct(path, images, layers):
    """The whole detector, image by image, with the tensors as additional outputs."""
    feeds = np.float32(images.numpy()).transpose(0, 3, 1, 2)[:, None] / np.float32(255)
    runs = [run_onnx(path, {"images": feed}, layers) for feed in feeds]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(("divisor", "mean", "std"), [
    (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # YOLOv5 to v9
    (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # YOLOX
    (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (1.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
    (127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
])  # fmt: skip
def test_the_input_tensor_is_what_numpy_gives(color, divisor, mean, std):
    images = pictures(2, (5, 7))
    before = images.clone()
    tensor = Preprocess((5, 7), color=color, divisor=divisor, mean=mean, std=std)(images)
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert torch.equal(images, before)
    channels = images.numpy() if color == "rgb" else images.numpy()[..., ::-1]
    want = ((channels / divisor - np.array(mean)) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tensor.numpy(), want, atol=1e-5, rtol=1e-6)


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


def test_images_in_any_memory_layout_are_read_right_and_earlier_features_stay(dynamic_onnx_file):
    extractor = extractor_of(dynamic_onnx_file, LAYERS[0])
    images = pictures(2)
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    (features,) = extractor(images)
    extractor(pictures(2, seed=2))
    assert torch.equal(features, extractor(strided)[0])


def test_an_fp16_detector_takes_and_gives_float32_at_the_border(tmp_path, onnx_file):
    half = make_onnx(tmp_path / "half.onnx", dtype="float16")
    images = pictures(2)
    features = extractor_of(half, LAYERS)(images)
    for got, want in zip(features, extractor_of(onnx_file, LAYERS)(images), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)


def test_the_file_is_not_touched(tmp_path):
    path = make_onnx(tmp_path / "m.onnx")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    extractor = extractor_of(path, LAYERS)
    extractor(pictures(2))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    assert extractor.digest == hashlib.sha256(before).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_map_of_one_cell_is_a_map_and_cells_that_do_not_tile_the_input_are_refused(onnx_file, tmp_path):
    assert extractor_of(onnx_file, "/model.7/GlobalAveragePool_output_0").strides == (64,)
    weights = {"w": np.ones((4, 3, 3, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["images", "w"], ["valid"]), helper.make_node("Relu", ["valid"], ["o"])]
    path = small_onnx(tmp_path / "m.onnx", nodes, weights, {"o": [1, 4, 62, 62]}, size=(64, 64))
    with pytest.raises(UserError, match=r"\[1, 4, 62, 62\].* divide the input 64x64 evenly"):
        extractor_of(path, "valid")


OPEN = """
import os, sys
from pathlib import Path
from roiseg.extractor.session import open_session
session = open_session(Path(sys.argv[1]).read_bytes(), sys.argv[1], ["CPUExecutionProvider"], 1)
print(len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1)
"""


@pytest.mark.slow
def test_nothing_is_written_at_home_and_no_thread_runs(onnx_file, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(onnx_file)], env={**kept, **home, "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert int(done.stdout) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
