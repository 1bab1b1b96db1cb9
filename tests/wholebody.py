"""A tiny detector of the shapes of YOLOv9 wholebody files: a feature map inside, finished rows as output."""

from __future__ import annotations

import numpy as np
import torch
from helpers import save_onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_run import tiny_config

from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.rows import Rows
from roiseg.extractor.preprocess import Preprocess

LAYER = "/model.34/Concat_output_0"
HEAD = "batchno_classid_score_x1y1x2y2"
COLUMNS = ["ignored", "label", "score", "x1", "y1", "x2", "y2"]
SIZE = (64, 96)


def wholebody_file(path, batch=1):
    """A detector of the user's shapes: a feature map, a score map, and [N, 7] rows, N free.

    A row tells of every cell of 8 x 8 pixels whose red, averaged, is above 0.5: class 0, the red as score, and
    the cell as box.
    """
    height, width = SIZE
    rows, columns = height // 8, width // 8
    y, x = np.meshgrid(np.arange(rows) * 8, np.arange(columns) * 8, indexing="ij")
    cells = np.stack([x, y, x + 8, y + 8], -1).reshape(-1, 4).astype(np.float32)
    weight = np.zeros((4, 3, 8, 8), np.float32)
    weight[0, 0] = weight[1, 1] = 1 / 64
    constants = {
        "weight": weight, "cells": cells, "half": np.float32(0.5), "flat": np.array([-1]), "column": np.array([-1, 1]),
        "zero": np.array([0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "weight"], [LAYER], strides=[8, 8]),
        helper.make_node("Gather", [LAYER, "zero"], ["red"], axis=1),
        helper.make_node("Reshape", ["red", "flat"], ["scores"]),
        helper.make_node("Greater", ["scores", "half"], ["above"]),
        helper.make_node("Compress", ["scores", "above"], ["kept_scores"], axis=0),
        helper.make_node("Reshape", ["kept_scores", "column"], ["score"]),
        helper.make_node("Compress", ["cells", "above"], ["boxes"], axis=0),
        helper.make_node("Sub", ["score", "score"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "nothing", "score", "boxes"], [HEAD], axis=1),
        helper.make_node("Sigmoid", [LAYER], ["featext"]),
    ]
    shapes = {"images": [batch, 3, *SIZE], "featext": [batch, 4, rows, columns], HEAD: ["N", 7]}
    image, *outputs = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()
    )
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return save_onnx(path, nodes, [image], outputs, weights)


def red_picture(*cells):
    """uint8 [1, H, W, 3] that is red (score 1) in these cells (row, column) and black elsewhere."""
    picture = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    for row, column in cells:
        picture[0, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, 0] = 255
    return picture


def wholebody_extractor(folder):
    """The extractor of such a file, which reads its boxes."""
    path = wholebody_file(folder / "wholebody.onnx")
    return OnnxExtractor(str(path), [LAYER], Preprocess(SIZE), threads=1, postprocess=Rows(COLUMNS))


def wholebody_config(extractor):
    """The configuration of a decoder on this extractor, as a checkpoint carries it."""
    config = tiny_config(extractor.onnx_path, [LAYER])
    config["extractor"]["postprocess"] = {
        "_target_": "roiseg.extractor.postprocess.rows.Rows", "columns": COLUMNS,
    }  # fmt: skip
    config["extractor"]["preprocess"] |= {"image_size": list(SIZE), "color": "rgb"}
    return config
