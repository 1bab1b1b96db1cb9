"""SamDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import math

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, NARROW_SAM, ROIS, random_features
from torch.nn import functional as F

from roiseg.decoders.base import Context
from roiseg.decoders.layers.transformer import PatchEmbedding, TwoWayTransformer
from roiseg.decoders.sam import FourierPositions, MaskDecoder, PromptEncoder, SamDecoder
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice
from roiseg.losses.multimask import IouScore, MultimaskMinimum


def narrow(strides=(4,), **options):
    return SamDecoder([8] * len(strides), strides, IMAGE_SIZE, **{**NARROW_SAM, **options})


def attend(attention, queries, keys, values):
    """Multi-head attention by its definition, a head at a time; float64."""
    q, k, v = attention.query(queries), attention.key(keys), attention.value(values)
    heads = []
    for query, key, value in zip(*(t.chunk(attention.heads, dim=1) for t in (q, k, v)), strict=True):
        heads.append((query @ key.T / math.sqrt(query.shape[1])).softmax(dim=1) @ value)
    return attention.out(torch.cat(heads, dim=1))


def walk(transformer, prompts, image, positions):
    """The two-way transformer of one ROI as the paper tells it."""
    tokens = prompts
    for number, block in enumerate(transformer.blocks):
        if number == 0:
            tokens = attend(block.among_tokens, tokens, tokens, tokens)
        else:
            tokens = tokens + attend(block.among_tokens, tokens + prompts, tokens + prompts, tokens)
        tokens = block.norms[0](tokens)
        tokens = block.norms[1](tokens + attend(block.to_image, tokens + prompts, image + positions, image))
        tokens = block.norms[2](tokens + block.mlp[2](block.mlp[0](tokens).clamp(min=0)))
        image = block.norms[3](image + attend(block.to_tokens, image + positions, tokens + prompts, tokens))
    read = attend(transformer.to_image, tokens + prompts, image + positions, image)
    return transformer.norm(tokens + read), image


@torch.no_grad()
def test_two_way_transformer_equals_plain_loops():
    torch.manual_seed(0)
    transformer = TwoWayTransformer(dim=16, depth=2, heads=2, mlp_width=24).double()
    prompts, image = torch.randn(3, 3, 16).double(), torch.randn(2, 4, 16).double()
    positions, rows = torch.randn(4, 16).double(), torch.tensor([0, 1, 1])
    tokens, cells = transformer(prompts, image, positions, rows)
    alone = transformer(prompts, image[rows], positions, None)  # each ROI with an image of its own
    for r, row in enumerate(rows):
        expected = walk(transformer, prompts[r], image[row], positions)
        for got in ((tokens, cells), alone):
            torch.testing.assert_close(got[0][r], expected[0])
            torch.testing.assert_close(got[1][r], expected[1])


@torch.no_grad()
def test_masks_are_hypernetwork_kernels_times_the_upscaled_image():
    torch.manual_seed(0)
    decoder = MaskDecoder(dim=16, masks=3, classes=2, depth=1, heads=2, mlp_width=8).double()
    embedding, prompts = torch.randn(1, 16, 2, 3).double(), torch.randn(1, 4, 16).double()
    positions = torch.randn(6, 16).double()
    masks, iou = decoder(embedding, positions, prompts, torch.tensor([0]))
    assert masks.shape == (1, 3, 2, 8, 12)
    tokens = torch.cat([decoder.iou_token, decoder.mask_tokens, prompts[0]])
    tokens, cells = walk(decoder.transformer, tokens, embedding[0].flatten(1).T, positions)
    upscaled = decoder.upscale(cells.T.reshape(1, 16, 2, 3))[0]
    torch.testing.assert_close(iou[0], torch.sigmoid(decoder.iou_head(tokens[0])).float(), check_dtype=False)
    for m in range(3):
        kernels = decoder.hypernetworks[m](tokens[1 + m])
        for k in range(2):
            expected = sum(kernels[2 * k + c] * upscaled[c] for c in range(2))  # dim / 8 = 2 channels
            torch.testing.assert_close(masks[0, m, k], expected)


@torch.no_grad()
def test_the_embedding_reads_patches_of_finer_layers_and_resizes_coarser_ones():
    torch.manual_seed(0)
    embed = PatchEmbedding([2, 3], [4, 32], dim=5, stride=16).double()
    fine, coarse = torch.randn(1, 2, 16, 24).double(), torch.randn(1, 3, 2, 3).double()
    got = embed([fine, coarse])
    assert got.shape == (1, 5, 4, 6)
    resized = F.interpolate(embed.read[1](coarse), (4, 6), mode="bilinear", align_corners=False)
    for y, x in ((0, 0), (2, 5)):
        patch = fine[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        cell = (embed.read[0].weight * patch).sum(dim=(1, 2, 3)) + embed.read[0].bias + resized[0, :, y, x]
        expected = (cell - cell.mean()) / torch.sqrt(cell.var(correction=0) + 1e-6)
        torch.testing.assert_close(got[0, :, y, x], expected)


def test_positions_are_sines_and_cosines_of_random_projections_of_minus_one_to_one():
    torch.manual_seed(0)
    positions = FourierPositions(6)
    code = positions(torch.tensor([0.25, 0.5]))
    for i in range(3):
        phase = 2 * math.pi * (-0.5 * positions.frequencies[0, i] + 0.0 * positions.frequencies[1, i])
        assert code[i].item() == pytest.approx(math.sin(phase), abs=1e-5)
        assert code[3 + i].item() == pytest.approx(math.cos(phase), abs=1e-5)


def test_a_cell_of_the_embedding_and_a_click_at_its_centre_have_the_same_position():
    encoder = PromptEncoder(16, IMAGE_SIZE)
    height, width = 8, 12
    grid = encoder.positions.grid(height, width).unflatten(0, (height, width))
    click = torch.tensor([[[5.5 * 8, 2.5 * 8, 1.0]]])  # the centre of column 5, row 2 at stride 8
    token = encoder(torch.zeros(1, 4), click)[0, 2]
    torch.testing.assert_close(token - encoder.kinds.weight[2], grid[2, 5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_clicks_and_a_click_that_is_none_are_the_same_wherever_it_lies():
    decoder = narrow().eval()
    features = random_features(decoder, 3)
    nowhere = Context(points=torch.tensor([50.0, 20.0, -1.0]).expand(3, 1, 3))
    torch.testing.assert_close(decoder(features, ROIS, nowhere).logits, decoder(features, ROIS).logits)


@torch.no_grad()
@pytest.mark.parametrize("frame", ["image", "roi"])
def test_logits_are_the_candidate_of_the_highest_predicted_iou(frame):
    torch.manual_seed(0)
    decoder = narrow(candidates=4, frame=frame).eval()
    output = decoder(random_features(decoder, 3), ROIS)
    candidates, iou = output.auxiliary["candidates"], output.auxiliary["iou"]
    assert (candidates.shape, iou.shape) == ((3, 4, 3, *decoder.output_size), (3, 4))
    assert ((iou > 0) & (iou < 1)).all()
    for r in range(3):
        best = max(range(4), key=lambda m: float(iou[r, m]))
        torch.testing.assert_close(output.logits[r], candidates[r, best])
        others = [m for m in range(4) if m != best]
        assert all((candidates[r, m] - candidates[r, best]).abs().max() > 1e-3 for m in others)


def test_an_earlier_mask_is_read_in_any_resolution_and_every_weight_of_it_learns():
    torch.manual_seed(0)
    decoder = narrow(prior=True)
    assert decoder.prompts == ("points", "prior")
    features = random_features(decoder, 3)
    with pytest.raises(ValueError, match=r"context\.prior"):
        decoder(features, ROIS)
    prior = torch.rand(3, 3, 16, 24)
    one = decoder(features, ROIS, Context(prior=prior)).auxiliary["candidates"]
    same = F.interpolate(prior, decoder.output_size, mode="bilinear", align_corners=False)
    prior[1] = 1 - prior[1]
    same, other = (decoder(features, ROIS, Context(prior=p)).auxiliary["candidates"] for p in (same, prior))
    torch.testing.assert_close(same, one, atol=1e-4, rtol=1e-4)
    assert [bool((other[r] - one[r]).abs().max() > 1e-3) for r in range(3)] == [False, True, False]
    one.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in decoder.read_prior.parameters())


@pytest.mark.slow
def test_a_click_on_the_other_of_two_moves_the_mask_to_that_one():
    """One ROI around two discs: which of them is meant, only the click says."""
    torch.manual_seed(0)
    decoder = narrow(stride=16)
    y, x = (torch.arange(side) + 0.5 for side in IMAGE_SIZE)
    centers = torch.tensor([[30.0, 32.0], [66.0, 32.0]])
    discs = torch.stack([((x - cx) ** 2 + (y[:, None] - cy) ** 2 < 14**2).float() for cx, cy in centers])
    mix = torch.randn(8, 2)
    seen = torch.einsum("cd,dhw->chw", mix, F.avg_pool2d(discs, 4))
    features = [seen[None] + 0.05 * torch.randn(1, 8, 16, 24)]
    rois = torch.tensor([[0, 14.0, 16.0, 82.0, 48.0]]).repeat(2, 1)
    masks = F.interpolate(discs[:, None], decoder.output_size, mode="area")[:, 0] > 0.5
    targets = torch.where(masks, 1, torch.where(masks.flip(0), 2, 0)).to(torch.uint8)

    def click(shift):
        return torch.cat([centers + shift, torch.ones(2, 1)], dim=1)[:, None]

    terms = {"ce": CrossEntropy(), "dice": Dice()}
    best = MultimaskMinimum({name: {"term": term, "weight": 1.0} for name, term in terms.items()})
    terms |= {"candidates": best, "iou": IouScore()}
    measure = CompositeLoss({name: {"term": term, "weight": 1.0} for name, term in terms.items()})
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        output = decoder(features, rois, Context(points=click(torch.randint(-8, 9, (2, 2)))))
        measure(output, targets)[0].backward()
        optimizer.step()
    decoder.eval()
    for shift in (-6.0, 5.0):
        with torch.no_grad():
            drawn = decoder(features, rois, Context(points=click(shift))).logits.argmax(1) == 1
        own, other = ((drawn & m).sum((1, 2)) / (drawn | m).sum((1, 2)) for m in (masks, masks.flip(0)))
        assert (own > 0.8).all() and (other < 0.1).all()
