"""A decoder given many ROIs in parts says what it says given all of them."""

from unittest.mock import patch

import pytest
import torch
from helpers.decoders import CASES, IMAGE_SIZE, random_features

from roiseg.decoders.base import Context, decode_in_chunks
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice

SMALL = [case for case in CASES if case.small]
# without PointRend, whose random training points depend on how the ROIs are split
FIXED = [case for case in SMALL if "points" not in case.terms]
PERSONS = (1, 0, 9, 3)  # of four images


def crowd(decoder, persons=PERSONS):
    """Features, ROIs and context of images with that many persons."""
    generator = torch.Generator().manual_seed(3)
    images = torch.repeat_interleave(torch.arange(len(persons)), torch.tensor(persons))[:, None]
    corner = torch.rand(len(images), 2, generator=generator) * 40
    size = 8 + torch.rand(len(images), 2, generator=generator) * 16
    rois = torch.cat([images, corner, corner + size], dim=1)
    context = Context(
        image=torch.rand(len(persons), 3, *IMAGE_SIZE, generator=generator),
        pixel_size=1 + torch.rand(len(persons), generator=generator),
    )
    return random_features(decoder, len(persons)), rois, context


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("max_rois", [1, 4])
def test_parts_give_the_logits_and_extra_outputs_of_the_whole(case, max_rois):
    torch.manual_seed(0)
    decoder = case.make().eval()
    given = crowd(decoder)
    with torch.no_grad():
        whole, parts = decoder(*given), decode_in_chunks(decoder, *given, max_rois)
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-4, rtol=1e-4)
    assert parts.auxiliary.keys() == whole.auxiliary.keys()
    for name, value in whole.auxiliary.items():
        torch.testing.assert_close(parts.auxiliary[name], value, atol=1e-4, rtol=1e-4)
    assert (whole.inside is None) == (parts.inside is None)
    assert whole.inside is None or torch.equal(parts.inside, whole.inside)


@pytest.mark.slow_except("cascade")
@pytest.mark.parametrize("case", FIXED, ids=lambda case: case.name)
def test_parts_give_the_gradients_of_the_whole(case):
    """In float64, where another order of summing leaves no trace."""
    gradients = []
    for max_rois in (1000, 4):
        torch.manual_seed(0)
        decoder = case.make().double().train()
        for module in decoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        features, rois, context = crowd(decoder)
        context = Context(image=context.image.double(), pixel_size=context.pixel_size.double())
        output = decode_in_chunks(decoder, [f.double() for f in features], rois.double(), context, max_rois)
        target = torch.randint(0, 2, output.logits[:, 0].shape, generator=torch.Generator().manual_seed(1))
        terms = {"ce": {"term": CrossEntropy(), "weight": 1.0}, "dice": {"term": Dice(), "weight": 1.0}}
        CompositeLoss({**terms, **case.terms})(output, target.byte())[0].backward()
        gradients.append({n: p.grad for n, p in decoder.named_parameters() if p.grad is not None})
    whole, parts = gradients
    assert whole.keys() == parts.keys() and whole
    scale = max(float(g.abs().max()) for g in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-9 * scale, rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_a_picture_of_300_persons_beside_one_of_1_reaches_the_decoder_in_bounded_parts(training):
    decoder = SMALL[0].make().train(training)
    given = crowd(decoder, (1, 300))
    with patch.object(decoder, "decode", wraps=decoder.decode) as decode, torch.set_grad_enabled(training):
        output = decode_in_chunks(decoder, *given, 64)
    seen = [(len(call.args[1]), len(call.args[0][0])) for call in decode.call_args_list]
    assert seen == [(64, 2), (64, 1), (64, 1), (64, 1), (45, 1)]
    assert len(output.logits) == 301


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_number_of_persons():
    """Counted where autograd stores tensors: of a part it stores none, the part is decoded once more."""

    def kept(persons, max_rois):
        decoder = SMALL[0].make().train()
        features, rois, context = crowd(decoder, (1, persons))
        outer = {}

        def pack(tensor):
            outer[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            decode_in_chunks(decoder, features, rois, context, max_rois)
        return sum(outer.values())

    at_once, in_parts = kept(300, 1000), kept(300, 16)
    assert in_parts < at_once / 20
