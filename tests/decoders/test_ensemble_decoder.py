"""EnsembleDecoder: the mean of trained decoders."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, NARROW, ROIS, pyramid, random_features, roialign
from tiny_run import with_random_weights
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.decoders.base import Context
from roiseg.decoders.ensemble import EnsembleDecoder
from roiseg.onnx_export.graph import FeatureInput, export_decoder, save_onnx
from roiseg.onnx_export.verify import CheckInput, largest_difference, random_rois

LAYERS = {"in_channels": (6, 8, 10), "strides": (4, 8, 16)}


def members():
    """Two decoders of different kinds and grids."""
    torch.manual_seed(0)
    parts = [roialign(**LAYERS, output_size=(28, 28), **NARROW)(), pyramid(mid_channels=8, detail=4)()]
    return [with_random_weights(part, 0.05).eval() for part in parts]


def test_probabilities_are_the_mean_of_the_members_on_the_finest_grid():
    parts = members()
    ensemble = EnsembleDecoder(parts).eval()
    features, context = random_features(ensemble, 3), Context(image=torch.rand(3, 3, *IMAGE_SIZE))
    found = ensemble(features, ROIS, context).logits.softmax(1)
    coarse, fine = (part(features, ROIS, context).logits for part in parts)
    coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, (coarse.softmax(1) + fine.softmax(1)) / 2)
    assert found.shape == (3, 3, 56, 56) and ensemble.context_inputs == ("image",)
    assert ensemble(features, ROIS[:0], context).logits.shape == (0, 3, 56, 56)
    alone = EnsembleDecoder(parts[1:]).eval()(features, ROIS, context).logits
    torch.testing.assert_close(alone.softmax(1), fine.softmax(1))


def test_members_have_the_same_classes_and_frame():
    with pytest.raises(UserError, match=r"members\[1\].num_classes is 2"):
        EnsembleDecoder([members()[0], roialign(**LAYERS, num_classes=2, **NARROW)()])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_file_holds_all_members(tmp_path):
    ensemble = EnsembleDecoder(members()).eval()
    names = [f"layer{number}" for number in range(3)]
    features = random_features(ensemble, 1)
    inputs = [FeatureInput(name, tuple(f.shape[1:])) for name, f in zip(names, features, strict=True)]
    save_onnx(export_decoder(ensemble, inputs, IMAGE_SIZE), tmp_path / "ensemble.onnx", {})
    arrays = {name: feature.numpy() for name, feature in zip(names, features, strict=True)}
    image = {"image": torch.rand(1, 3, *IMAGE_SIZE)}
    given = [CheckInput(arrays, features, random_rois(count), image) for count in (0, 1, 5)]
    assert largest_difference(tmp_path / "ensemble.onnx", ensemble, given) <= 1e-4
