"""Every decoder as an ONNX file against PyTorch, with any number of ROIs; test_onnx_graph.py does so in short."""

import pytest
import torch
from helpers import onnx_session
from helpers.decoders import CASES, IMAGE_SIZE, random_features
from tiny_run import with_random_weights

from roiseg.onnx_export.graph import FeatureInput, export_decoder, save_onnx
from roiseg.onnx_export.verify import CheckInput, largest_difference, random_rois

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("batch", [False, True], ids=["one image", "batch"])
@pytest.mark.parametrize("case", [c for c in CASES if c.small], ids=lambda case: case.name)
def test_onnx_equals_pytorch_for_any_number_of_rois(case, batch, tmp_path):
    """In a batch, each image against PyTorch with this image alone; the first has no ROI.

    The batch is also of another size, where the decoder can take it.
    """
    torch.manual_seed(0)
    decoder = with_random_weights(case.make(), 0.05).eval()
    names = [f"layer{number}" for number in range(len(decoder.strides))]
    path, free = tmp_path / "decoder.onnx", batch and decoder.any_size
    shapes = [tuple(feature.shape[1:]) for feature in random_features(decoder, 1)]
    inputs = [FeatureInput(*pair) for pair in zip(names, shapes, strict=True)]
    save_onnx(export_decoder(decoder, inputs, IMAGE_SIZE, batch=batch, free_size=free), path, {})
    for size in (IMAGE_SIZE, *([(128, 64)] if free else [])):
        given = []
        for number, count in enumerate((0, 1, 2, 7)):
            features = random_features(decoder, 1, seed=number, size=size)
            values = {"image": torch.rand(1, 3, *size), "pixel_size": torch.ones(1) * (1.7 + number)}
            known = {name: values[name] for name in decoder.context_inputs}
            arrays = {name: f.numpy() for name, f in zip(names, features, strict=True)}
            given.append(CheckInput(arrays, features, random_rois(count), known))
        assert largest_difference(path, decoder, given) <= 1e-4
    assert [i.name for i in onnx_session(path).get_inputs()] == [*names, "rois", *known]
    assert onnx_session(path).get_inputs()[0].shape[0] == ("batch" if batch else 1)
