"""The two orders of 1x1 convolution and RoIAlign: equal values, equal gradients, the cheaper one taken."""

import pytest
import torch

from roiseg.decoders.layers import roi_crop
from roiseg.decoders.layers.roi_crop import RoiCrop, crop_then_reduce, reduce_then_crop
from roiseg.geometry.roi_align import roi_align, roi_weights

# on maps of 12 x 16 cells at stride 4: 48 x 64 input pixels
ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 30.0],
    [0, -9.0, -13.0, 33.0, 30.0],  # over the left and top border
    [2, 50.0, 30.0, 90.0, 70.0],  # over the right and bottom border
    [2, -20.0, -20.0, 100.0, 100.0],  # larger than the map
    [2, 100.0, 100.0, 120.0, 130.0],  # off the map
])  # fmt: skip


def layer(channels=6, height=12, width=16, seed=0):
    return torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(seed))


def make_crop(channels=(6, 10), strides=(4, 8), out=5, size=(7, 5)):
    torch.manual_seed(1)
    crop = RoiCrop(channels, strides, out, size, sampling_ratio=2)
    for lateral in crop.lateral:
        torch.nn.init.normal_(lateral.bias)  # a bias of 0 would hide where it is missing
    return crop


def in_order(order, crop, feature, rois=ROIS, stride=4):
    weights = roi_weights(rois, feature.shape[2:], crop.size, stride, 2)
    return order(crop.lateral[0], feature, rois, *weights)


def test_both_orders_have_equal_values_and_gradients_inside_over_and_beyond_the_border():
    found = []
    for order in (reduce_then_crop, crop_then_reduce):
        crop, feature = make_crop(), layer().requires_grad_()
        result = in_order(order, crop, feature)
        (result * torch.randn(result.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        lateral = crop.lateral[0]
        found.append((result.detach(), lateral.weight.grad, lateral.bias.grad, feature.grad))
    assert found[0][0].shape == (5, 5, 7, 5)
    assert found[0][0][2].abs().max() > 0.1  # partly on the map
    for before, after in zip(*found, strict=True):
        assert before.abs().max() > 0
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-5)


def test_layers_are_summed():
    crop, features = make_crop(), [layer(6), layer(10, 6, 8)]
    expected = sum(
        roi_align(lateral(feature), ROIS, (7, 5), stride)
        for lateral, feature, stride in zip(crop.lateral, features, (4, 8), strict=True)
    )
    torch.testing.assert_close(crop(features, ROIS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "count", "size", "first"), [
    (1024, 1, 14, False),  # one ROI: reducing 80 x 80 cells for it is a waste
    (1024, 40, 14, True),  # many: RoIAlign of 1024 channels for each is
    (128, 1, 14, False), (128, 4, 56, True),
])  # fmt: skip
def test_the_cheaper_order_is_taken(monkeypatch, channels, count, size, first):
    taken = []
    for order in (reduce_then_crop, crop_then_reduce):
        noted = lambda *args, order=order: taken.append(order) or order(*args)  # noqa: E731
        monkeypatch.setattr(roi_crop, order.__name__, noted)
    rois = torch.tensor([[0, 4.0, 4, 200, 300]]).repeat(count, 1)
    with torch.no_grad():
        RoiCrop([channels], [8], 32, (size, size), 2)([torch.zeros(1, channels, 80, 80)], rois)
    assert taken == [reduce_then_crop if first else crop_then_reduce]
