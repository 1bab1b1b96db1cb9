"""What several tests need: tiny COCO sets, tiny ONNX detectors, commands in a process of their own.

Importable as ``from helpers import ...`` from any test (`pythonpath` in pyproject.toml).
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from pycocotools import mask as coco_mask

from roiseg.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def rectangle(x1, y1, x2, y2):
    """Polygon [x, y, x, y, ...] of a rectangle, in pixels."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(cx, cy, rx, ry, points=32):
    """Polygon of an ellipse."""
    angles = [2 * math.pi * i / points for i in range(points)]
    return [round(v, 2) for a in angles for v in (cx + rx * math.cos(a), cy + ry * math.sin(a))]


def person(cx, top, height):
    """Polygon of a standing figure with head, arms and two legs; about 0.5 `height` wide."""
    right = [
        (0.05, 0.0), (0.09, 0.05), (0.09, 0.12), (0.05, 0.18), (0.16, 0.22), (0.25, 0.5), (0.20, 0.53),
        (0.12, 0.34), (0.12, 0.55), (0.16, 1.0), (0.06, 1.0), (0.02, 0.62),
    ]  # fmt: skip
    outline = right + [(-x, y) for x, y in reversed(right)]
    return [round(v, 2) for x, y in outline for v in (cx + x * height, top + y * height)]


def hole_rle(height, width, outer, inner):
    """Uncompressed RLE of a rectangle `outer` (x1, y1, x2, y2) without the rectangle `inner`."""
    mask = np.zeros((height, width), np.uint8)
    mask[outer[1] : outer[3], outer[0] : outer[2]] = 1
    mask[inner[1] : inner[3], inner[0] : inner[2]] = 0
    return uncompressed_rle(mask)


def uncompressed_rle(mask):
    """`{"size": [H, W], "counts": [runs]}` of a 0/1 mask [H, W]: how far it is from one change to the next."""
    values = np.asarray(mask).astype(bool).T.ravel()
    changes = np.flatnonzero(np.diff(values, prepend=False))
    return {"size": list(np.shape(mask)), "counts": np.diff([0, *changes, len(values)]).tolist()}


def segmentation_mask(segmentation, height, width):
    """0/1 mask [H, W] of a COCO segmentation (polygons or RLE), by pycocotools."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle)


def inside_polygon(polygon, xs, ys):
    """Even-odd rule for every point of the raster ys x xs, a row at a time."""
    points = np.reshape(polygon, (-1, 2)).astype(np.float64)
    ends = np.roll(points, -1, axis=0)
    result = np.zeros((len(ys), len(xs)), bool)
    for row, y in enumerate(ys):
        crosses = (points[:, 1] <= y) != (ends[:, 1] <= y)
        a, b = points[crosses], ends[crosses]
        hits = np.sort(a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0]))
        result[row] = np.searchsorted(hits, xs) % 2 == 1
    return result


def mask_bounds(mask):
    """x1, y1, x2, y2 of what is set in a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@dataclass(frozen=True)
class CocoSet:
    """Where a set written by `write_coco` lies."""

    json: Path
    images: Path

    def content(self):
        """The parsed json."""
        return json.loads(self.json.read_text())


def write_coco(folder, images, instances, name="instances.json"):
    """Write images and their COCO instances file, `name`; the images show the instances.

    `images` is {file name: (height, width)}; the ids are 1, 2, ... in this order. `instances` are dicts: `file`
    (a key of `images`) and `segmentation` (a polygon, a list of polygons, or an RLE). `id`, `bbox` and `area`
    are computed from the outline; any other key is written as it is and overrides these.
    """
    folder = Path(folder)
    ids = {file: number for number, file in enumerate(images, 1)}
    rng = np.random.default_rng(0)
    pictures = {file: _background(*size, rng) for file, size in images.items()}
    records = []
    for number, instance in enumerate(instances, 1):
        extra = dict(instance)
        file, outline = extra.pop("file"), extra.pop("segmentation")
        if isinstance(outline, list) and outline and not isinstance(outline[0], list):
            outline = [outline]
        mask = segmentation_mask(outline, *images[file])
        pictures[file][mask > 0] = rng.integers(0, 256, 3)
        records.append({
            "id": number, "image_id": ids[file], "category_id": 1, "iscrowd": 0, "segmentation": outline,
            "bbox": _bbox(outline, mask), "area": float(mask.sum()), **extra,
        })  # fmt: skip
    for file, picture in pictures.items():
        target = folder / "images" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), picture[:, :, ::-1])
    content = {
        "images": [{"id": ids[f], "file_name": f, "height": h, "width": w} for f, (h, w) in images.items()],
        "annotations": records,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return CocoSet(path, folder / "images")


def halves(coco_set, folder):
    """Write every other image of a set into `train.json`, the rest into `val.json`; returns the two paths."""
    whole, paths = coco_set.content(), [folder / "train.json", folder / "val.json"]
    for number, path in enumerate(paths):
        images = whole["images"][number::2]
        ids = {image["id"] for image in images}
        kept = [record for record in whole["annotations"] if record["image_id"] in ids]
        path.write_text(json.dumps(whole | {"images": images, "annotations": kept}))
    return paths


def tiny_coco(folder):
    """Write the tiny set: 6 images of 64 to 100 px, 12 persons; see `TINY_INSTANCES`."""
    return write_coco(folder, TINY_IMAGES, TINY_INSTANCES)


TINY_IMAGES = {
    "a.jpg": (80, 100), "b.jpg": (96, 64), "c.jpg": (64, 96), "d.jpg": (100, 100), "e.jpg": (72, 90),
    "empty.jpg": (64, 64),
}  # fmt: skip

TINY_INSTANCES = [
    {"file": "a.jpg", "segmentation": rectangle(10.5, 12.25, 48.75, 70)},  # overlaps the next one
    {"file": "a.jpg", "segmentation": ellipse(58, 40, 22, 28)},
    {"file": "a.jpg", "segmentation": rectangle(82, 50, 99, 79), "category_id": 18},  # a dog
    {"file": "b.jpg", "segmentation": person(30, 8, 80)},
    {"file": "b.jpg", "segmentation": ellipse(41, 60, 5, 6)},  # small: never a ROI, always in the way
    {"file": "c.jpg", "segmentation": hole_rle(64, 96, (8, 10, 50, 58), (20, 24, 36, 44))},  # a hole
    {"file": "c.jpg", "segmentation": person(62, 6, 54)},
    {"file": "d.jpg", "segmentation": hole_rle(100, 100, (40, 20, 98, 95), (90, 20, 98, 30)), "iscrowd": 1},
    {"file": "d.jpg", "segmentation": person(40, 10, 84)},
    {"file": "d.jpg", "segmentation": rectangle(74, 30, 96, 60)},
    {"file": "e.jpg", "segmentation": person(38, 5, 64)},
    {"file": "e.jpg", "segmentation": person(50, 9, 60)},  # hardly apart from the one before
    {"file": "e.jpg", "segmentation": [rectangle(66, 10, 84, 30), rectangle(68, 42, 82, 66)]},  # two parts
]


def _background(height, width, rng):
    coarse = rng.integers(60, 200, (8, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _bbox(segmentation, mask):
    """x, y, width, height: of the outline itself for polygons, of the pixels for an RLE."""
    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(part, (-1, 2)) for part in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
        return [float(v) for v in (*low, *(high - low))]
    x1, y1, x2, y2 = mask_bounds(mask)
    return [x1, y1, x2 - x1, y2 - y1]


# inner tensors of `make_onnx`: name -> (channels, stride)
ONNX_LAYERS = {
    "/model.2/act/Relu_output_0": (12, 4),
    "/model.3/Concat_output_0": (20, 4),
    "/model.5/act/Relu_output_0": (24, 8),
    "/model.6/Concat_output_0": (32, 8),
}


def make_onnx(path, size=(64, 64), batch=1, dtype="float32", color_channels=3):
    """Write a tiny convolutional "detector" with random fixed weights.

    Input `images` [batch, 3, *size], output `output` [batch, 5]; inner tensors `ONNX_LAYERS` (float
    maps at stride 4 and 8), `/model.7/Flatten_output_0` (2-D) and `/model.7/Shape_output_0` (int64). `size` is
    (H, W), multiples of 8; a name as `batch`, such as "N", makes it free. Returns the path.
    """
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    rng = np.random.default_rng(7)
    nodes, weights = [], []

    def conv(source, output, c_in, c_out, stride):
        weight = rng.normal(0, 1 / math.sqrt(9 * c_in), (c_out, c_in, 3, 3)).astype(dtype)
        bias = rng.normal(0, 0.1, c_out).astype(dtype)
        weights.append(numpy_helper.from_array(weight, f"{output}.weight"))
        weights.append(numpy_helper.from_array(bias, f"{output}.bias"))
        inputs = [source, f"{output}.weight", f"{output}.bias"]
        options = {"kernel_shape": [3, 3], "strides": [stride, stride], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("Conv", inputs, [output], **options))

    def op(kind_of, inputs, output, **options):
        nodes.append(helper.make_node(kind_of, inputs, [output], **options))

    conv("images", "/model.1/Conv_output_0", color_channels, 8, 2)
    op("Relu", ["/model.1/Conv_output_0"], "/model.1/act/Relu_output_0")
    conv("/model.1/act/Relu_output_0", "/model.2/Conv_output_0", 8, 12, 2)
    op("Relu", ["/model.2/Conv_output_0"], "/model.2/act/Relu_output_0")
    conv("/model.2/act/Relu_output_0", "/model.3/Conv_output_0", 12, 8, 1)
    op("Concat", ["/model.2/act/Relu_output_0", "/model.3/Conv_output_0"], "/model.3/Concat_output_0", axis=1)
    conv("/model.3/Concat_output_0", "/model.5/Conv_output_0", 20, 24, 2)
    op("Relu", ["/model.5/Conv_output_0"], "/model.5/act/Relu_output_0")
    conv("/model.5/act/Relu_output_0", "/model.6/Conv_output_0", 24, 8, 1)
    op("Concat", ["/model.5/act/Relu_output_0", "/model.6/Conv_output_0"], "/model.6/Concat_output_0", axis=1)
    conv("/model.6/Concat_output_0", "/model.7/Conv_output_0", 32, 5, 1)
    op("GlobalAveragePool", ["/model.7/Conv_output_0"], "/model.7/GlobalAveragePool_output_0")
    op("Flatten", ["/model.7/GlobalAveragePool_output_0"], "/model.7/Flatten_output_0")
    op("Shape", ["/model.7/Flatten_output_0"], "/model.7/Shape_output_0")
    op("Reshape", ["/model.7/Flatten_output_0", "/model.7/Shape_output_0"], "/model.7/Reshape_output_0")
    op("Sigmoid", ["/model.7/Reshape_output_0"], "output")
    image = helper.make_tensor_value_info("images", kind, [batch, color_channels, *size])
    output = helper.make_tensor_value_info("output", kind, [batch, 5])
    return save_onnx(path, nodes, [image], [output], weights)


def small_onnx(path, nodes, weights, outputs, inputs=("images",), size=(8, 8)):
    """Write a graph of float tensors: `weights` name -> array, `outputs` name -> shape; inputs are [1, 3, *size]."""
    shapes = dict.fromkeys(inputs, (1, 3, *size)) | outputs
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    return save_onnx(path, nodes, [values[n] for n in inputs], [values[n] for n in outputs], constants)


def save_onnx(path, nodes, inputs, outputs, weights=()):
    """Write a checked ONNX file (opset 17, IR 8) of these parts; returns the path."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return Path(path)


def run_onnx(path, feed, outputs):
    """Run a whole ONNX file, uncut, with inner tensors `outputs` made outputs as well."""
    model = onnx.load(str(path))
    have = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in have)
    return onnx_session(model).run(list(outputs), feed)


def onnx_session(model):
    """A quiet session on one thread for an ONNX model, or the path of its file."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def user_error(function, *args):
    """Call a function; return its UserError's message, or "" where it succeeds. Other errors pass through."""
    try:
        function(*args)
    except UserError as error:
        return str(error)
    return ""


def run_command(
    args: Sequence[str], cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout=300
) -> subprocess.CompletedProcess[str]:
    """Run `python -m ARGS...` in a process of its own and wait for it; nothing is raised for a failing command.

    `cwd` is the repository by default; `env` adds to the environment, whose `PYTHONPATH` holds the repository.
    """
    process = start_command(args, cwd or ROOT, env)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start_command(args, cwd, env=None, **options) -> subprocess.Popen[str]:
    """Start `python -m ARGS...`; stdout and stderr are pipes of text unless `options` of Popen say otherwise."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(env or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, "-m", *map(str, args)]
    return subprocess.Popen(words, cwd=cwd, env=variables, **{**pipes, **options})
