"""What every decoder promises, on every case of `decoder_cases.CASES`; then RoiAlignDecoder's own."""

from __future__ import annotations

import copy

import pytest
import torch
from decoder_cases import CASES, IMAGE_SIZE, ellipse_scene, random_features
from torch import nn

from roiseg.common.errors import UserError
from roiseg.decoders.base import target_probability
from roiseg.decoders.layers import group_count
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice

ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, 30.0, 10.0, 95.5, 50.5],
    [2, -4.0, -6.0, 33.0, 30.0],  # over the border
    [2, 50.0, 20.0, 54.0, 61.0],  # narrow
    [2, 0.0, 0.0, 96.0, 64.0],
])  # fmt: skip
NO_ROIS = torch.zeros(0, 5)

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(case, seed=0):
    torch.manual_seed(seed)
    return case.make().eval()


@cases
@pytest.mark.parametrize("count", [0, 1, 5])
def test_logits_have_a_channel_per_class_on_the_output_grid(case, count):
    decoder = build(case)
    logits = decoder(random_features(decoder, 3), ROIS[:count]).logits
    assert logits.shape == (count, decoder.num_classes, *decoder.output_size)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@cases
def test_gradients_reach_every_parameter(case):
    decoder = build(case).train()
    logits = decoder(random_features(decoder, 3), ROIS).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@cases
def test_backward_through_no_rois_gives_zero_gradients(case):
    decoder = build(case).train()
    decoder(random_features(decoder, 2), NO_ROIS).logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in decoder.parameters())


@cases
def test_a_roi_does_not_depend_on_other_rois_or_images(case):
    decoder = build(case)
    features = random_features(decoder, 3)  # the middle picture has no ROI
    with torch.no_grad():
        together = decoder(features, ROIS).logits
        for number, roi in enumerate(ROIS):
            image = int(roi[0])
            alone = torch.cat([torch.zeros(1), roi[1:]])[None]
            expected = decoder([f[image : image + 1] for f in features], alone).logits[0]
            torch.testing.assert_close(together[number], expected, atol=1e-5, rtol=1e-5)


@cases
def test_a_roi_does_depend_on_its_own_image_and_box(case):
    decoder = build(case)
    features = random_features(decoder, 3)
    with torch.no_grad():
        here = decoder(features, ROIS[:1]).logits
        elsewhere = decoder(features, ROIS[:1] + torch.tensor([1.0, 0, 0, 0, 0])).logits
        moved = decoder(features, ROIS[:1] + torch.tensor([0, 20.0, 0, 20, 0])).logits
    assert (here - elsewhere).abs().max() > 1e-3
    assert (here - moved).abs().max() > 1e-3


@pytest.mark.parametrize("case", [c for c in CASES if c.mirrors], ids=lambda case: case.name)
def test_mirrored_input_gives_mirrored_logits_with_mirror_symmetric_kernels(case):
    decoder = build(case)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2
    features = random_features(decoder, 3)
    rois = ROIS.clone()
    rois[:, 1], rois[:, 3] = IMAGE_SIZE[1] - ROIS[:, 3], IMAGE_SIZE[1] - ROIS[:, 1]
    with torch.no_grad():
        expected = decoder(features, ROIS).logits.flip(-1)
        mirrored = decoder([f.flip(-1) for f in features], rois).logits
    torch.testing.assert_close(mirrored, expected, atol=1e-4, rtol=0)


LOSSES = {
    "ce": {"ce": {"term": CrossEntropy(), "weight": 1.0}},
    "ce_dice": {
        "ce": {"term": CrossEntropy(), "weight": 1.0},
        "dice": {"term": Dice([1]), "weight": 1.0},
    },
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", [c for c in CASES if c.small], ids=lambda case: case.name)
def test_one_batch_of_overlapping_ellipses_can_be_learned_by_heart(case, loss):
    decoder = build(case).train()
    scene, measure = ellipse_scene(decoder), CompositeLoss(LOSSES[loss])
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    truth = scene.targets == 1
    best = 0.0
    for _ in range(300):
        output = decoder(scene.features, scene.rois)
        predicted = output.logits.argmax(1) == 1
        best = max(best, float((predicted & truth).sum() / (predicted | truth).sum()))
        if best >= 0.97:
            break
        optimizer.zero_grad()
        measure(output, scene.targets)[0].backward()
        optimizer.step()
    assert best >= 0.97


@cases
def test_bfloat16_autocast_is_near_float32(case):
    decoder = build(case)
    features = random_features(decoder, 3)
    with torch.no_grad():
        exact = decoder(features, ROIS).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = decoder(features, ROIS).logits
    assert rough.dtype == torch.bfloat16
    assert (target_probability(rough) - target_probability(exact)).abs().max() < 0.08
    assert (target_probability(rough) - target_probability(exact)).abs().mean() < 0.01


@cases
def test_same_seed_gives_the_same_weights_and_the_same_logits(case):
    first, second = build(case, seed=3), build(case, seed=3)
    features = random_features(first, 3)
    with torch.no_grad():
        assert torch.equal(first(features, ROIS).logits, first(features, ROIS).logits)
        assert torch.equal(first(features, ROIS).logits, second(features, ROIS).logits)


@cases
def test_channels_last_weights_give_the_same_logits(case):
    decoder = build(case)
    features = random_features(decoder, 3)
    other = copy.deepcopy(decoder).to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(
            other(features, ROIS).logits, decoder(features, ROIS).logits, atol=1e-5, rtol=1e-5
        )


@cases
def test_input_is_left_as_it_is(case):
    decoder = build(case)
    features, rois = random_features(decoder, 3), ROIS.clone()
    before = [f.clone() for f in features]
    decoder(features, rois)
    assert torch.equal(rois, ROIS)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


def test_target_probability_is_the_softmax_of_class_1_in_float32():
    logits = torch.tensor([[[[1.0]], [[3.0]], [[2.0]]]])
    e = [2.718281828459045**v for v in (1, 3, 2)]
    assert target_probability(logits).item() == pytest.approx(e[1] / sum(e), abs=1e-6)
    assert target_probability(logits.half()).dtype == torch.float32


# --- RoiAlignDecoder ------------------------------------------------------------------------------


def test_default_configuration_has_the_parameters_counted_by_hand():
    decoder = RoiAlignDecoder([1024], [8])
    reduce = 1024 * 128 + 128  # 1x1 convolution with bias
    trunk = 4 * (128 * 128 * 9 + 2 * 128)  # 3x3 convolutions without bias, GroupNorm scale and shift
    upsample = (128 * 64 * 9 + 2 * 64) + (64 * 32 * 9 + 2 * 32)
    predict = 32 * 3 + 3
    assert reduce + trunk + upsample + predict == 814_499
    assert sum(p.numel() for p in decoder.parameters()) == 814_499


@pytest.mark.parametrize(
    ("mid", "least", "widths"),
    [(128, 32, [64, 32, 32]), (16, 32, [16, 16, 16]), (12, 1, [6, 3, 1]), (1, 1, [1, 1, 1])],
)
def test_upsampling_halves_the_width_down_to_min_channels(mid, least, widths):
    decoder = RoiAlignDecoder([4], [8], roi_size=(7, 7), mid_channels=mid, min_channels=least, depth=0)
    convolutions = [m for m in decoder.upsample.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == widths


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_classes": 1}, "model.num_classes"),
        ({"num_classes": 4}, "model.num_classes"),
        ({"output_size": (57, 56)}, "model.output_size"),
        ({"output_size": (28, 56)}, "model.output_size"),
        ({"output_size": (7, 7)}, "model.output_size"),
        ({"output_size": (42, 42)}, "model.output_size"),
        ({"output_size": (56,)}, "model.output_size"),
        ({"output_size": 56}, "model.output_size"),
        ({"output_size": (56, 56, 56)}, "model.output_size"),
        ({"output_size": (0, 0), "roi_size": (0, 0)}, "model.output_size"),
        ({"roi_size": (0, 14)}, "model.roi_size"),
        ({"roi_size": (14.5, 14.5)}, "model.roi_size"),
        ({"roi_size": (-14, -14)}, "model.roi_size"),
        ({"roi_size": None}, "model.roi_size"),
        ({"depth": -1}, "depth"),
        ({"mid_channels": 0}, "mid_channels"),
        ({"min_channels": 0}, "min_channels"),
        ({"sampling_ratio": 0}, "sampling_ratio"),
    ],
)
def test_impossible_options_are_user_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match="model") as error:
        RoiAlignDecoder([8], [4], **options)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreachable_output_size_lists_reachable_ones():
    with pytest.raises(UserError, match=r"\[14, 14\], \[28, 28\], \[56, 56\], \[112, 112\]"):
        RoiAlignDecoder([8], [4], output_size=(60, 60))


def test_the_order_of_layers_matters_only_through_their_own_weights():
    """Layers are summed: swapping two layers together with their reductions changes nothing."""
    torch.manual_seed(0)
    one = RoiAlignDecoder([6, 10], [4, 8], mid_channels=8, depth=1).eval()
    other = RoiAlignDecoder([10, 6], [8, 4], mid_channels=8, depth=1).eval()
    state = one.state_dict()
    swapped = {k.replace("reduce.0", "reduce.x").replace("reduce.1", "reduce.0"): v for k, v in state.items()}
    other.load_state_dict({k.replace("reduce.x", "reduce.1"): v for k, v in swapped.items()})
    features = random_features(one, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            other(features[::-1], ROIS).logits, one(features, ROIS).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("channels", "groups"), [(128, 8), (12, 4), (6, 2), (7, 1), (1, 1), (8, 8)])
def test_groups_divide_the_channels(channels, groups):
    assert group_count(channels) == groups
