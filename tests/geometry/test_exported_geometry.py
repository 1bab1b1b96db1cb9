"""Cropping and pasting as an ONNX graph, against PyTorch."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from roiseg.geometry.paste import paste_masks
from roiseg.geometry.roi_align import roi_align

pytestmark = pytest.mark.slow  # the exported predictor crops and pastes in the fast tests, too

BOXES = torch.tensor([
    [5.3, 4.1, 22.7, 19.9],
    [-7.5, -9.25, 12, 11],  # over the border
    [-20, -20, 60, 50],  # larger than the map
    [100, 100, 140, 130],  # outside
    [10.01, 10.02, 10.03, 10.05],  # tiny
    [10, 4, 10, 20],  # without width
    [22.7, 19.9, 5.3, 4.1],  # inverted
])  # fmt: skip


class CropAndPaste(torch.nn.Module):
    def forward(self, features, masks, boxes):
        rois = torch.nn.functional.pad(boxes, (1, 0))
        return roi_align(features, rois, (5, 4), 4, 2), paste_masks(masks, boxes, (20, 26))


def example(count):
    generator = torch.Generator().manual_seed(count)
    return (
        torch.randn(1, 3, 6, 9, generator=generator),
        torch.rand(count, 7, 5, generator=generator),
        BOXES[:count],
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "geometry.onnx"
    count = torch.export.Dim("R")
    shapes = {"features": None, "masks": {0: count}, "boxes": {0: count}}
    program = torch.onnx.export(
        CropAndPaste().eval(), example(3), dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False
    )
    program.save(str(path))
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_exported_graph_equals_pytorch_for_any_number_of_rois(session, count):
    given = example(count)
    names = [value.name for value in session.get_inputs()]
    got = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    for array, exact in zip(got, CropAndPaste()(*given), strict=True):
        np.testing.assert_allclose(array, exact.numpy(), atol=1e-5)
