"""Every decoder as an ONNX file against PyTorch, with any number of ROIs; test_onnx_graph.py does so in short."""

import pytest
import torch
from helpers import onnx_session
from helpers.decoders import CASES, IMAGE_SIZE, random_features
from tiny_run import with_random_weights

from roiseg.onnx_export.graph import FeatureInput, export_decoder, save_onnx
from roiseg.onnx_export.verify import CheckInput, largest_difference, random_rois

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", [c for c in CASES if c.small], ids=lambda case: case.name)
def test_onnx_equals_pytorch_for_any_number_of_rois(case, tmp_path):
    torch.manual_seed(0)
    decoder = with_random_weights(case.make(), 0.05).eval()
    features = random_features(decoder, 1)
    names = [f"layer{number}" for number in range(len(features))]
    inputs = [FeatureInput(name, tuple(f.shape[1:])) for name, f in zip(names, features, strict=True)]
    path = tmp_path / "decoder.onnx"
    save_onnx(export_decoder(decoder, inputs, IMAGE_SIZE), path, {})
    values = {"image": torch.rand(1, 3, *IMAGE_SIZE), "pixel_size": torch.ones(1) * 1.7}
    known = {name: values[name] for name in decoder.context_inputs}
    arrays = {name: f.numpy() for name, f in zip(names, features, strict=True)}
    given = [CheckInput(arrays, features, random_rois(count), known) for count in (0, 1, 2, 7)]
    assert largest_difference(path, decoder, IMAGE_SIZE, given) <= 1e-4
    assert [i.name for i in onnx_session(path).get_inputs()] == [*names, "rois", *known]
