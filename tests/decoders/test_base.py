"""What decoders inherit: frames, windows, reading logits on ROIs, what they must be told."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features
from torch import nn
from torch.nn import functional as F

from roiseg.decoders.base import Context, Decoder, DecoderOutput
from roiseg.decoders.roialign import RoiAlignDecoder

HEIGHT, WIDTH = IMAGE_SIZE
ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, 30.0, 10.0, 95.5, 50.5],
    [1, -4.0, -6.0, 33.0, 30.0],  # over the border
    [1, 50.0, 20.0, 50.5, 20.25],  # smaller than a cell
    [1, 0.0, 0.0, 96.0, 64.0],
])  # fmt: skip


class Blank(Decoder):
    """Logits that are all 0, on any grid in any frame."""

    def __init__(self, frame="roi", output_size=(6, 8), image_size=IMAGE_SIZE, num_classes=3, **shared):
        super().__init__([4], [8], image_size, num_classes, frame, output_size, **shared)

    def decode(self, features, rois, context):
        return DecoderOutput(features[0].new_zeros(len(rois), self.num_classes, *self.output_size))


def random_map(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_windows_are_the_rois_in_the_roi_frame_and_the_whole_input_in_the_image_frame():
    assert torch.equal(Blank("roi").extents(ROIS), ROIS[:, 1:])
    assert Blank("image").extents(ROIS).tolist() == [[0, 0, WIDTH, HEIGHT]] * len(ROIS)
    for frame in ("roi", "image"):
        assert Blank(frame).extents(ROIS[:0]).shape == (0, 4)
        for size in ((6, 8), (12, 16), (3, 4)):
            assert Blank(frame).roi_logits(torch.zeros(0, 3, 6, 8), ROIS[:0], size).shape == (0, 3, *size)


@pytest.mark.parametrize("grid", [(8, 12), (16, 24), (6, 8), (1, 1)])
def test_inside_is_the_share_of_each_cell_that_lies_in_the_roi(grid):
    decoder = Blank("image", grid)
    got = decoder(random_features(decoder, 2), ROIS).inside
    assert got.shape == (len(ROIS), *grid)
    cell_h, cell_w = HEIGHT / grid[0], WIDTH / grid[1]
    left, top = torch.arange(grid[1]) * cell_w, torch.arange(grid[0]) * cell_h
    for shares, (_, x1, y1, x2, y2) in zip(got, ROIS.tolist(), strict=True):
        across = ((left + cell_w).clamp(max=x2) - left.clamp(min=x1)).clamp(min=0)
        down = ((top + cell_h).clamp(max=y2) - top.clamp(min=y1)).clamp(min=0)
        want = torch.outer(down, across) / (cell_h * cell_w)
        torch.testing.assert_close(shares, want, atol=1e-5, rtol=0)


def test_logits_are_interpolated_on_a_finer_grid_and_averaged_on_a_coarser_one():
    for grid, size in (((28, 28), (56, 56)), ((7, 14), (56, 21)), ((5, 3), (11, 9))):
        logits = random_map(len(ROIS), 3, *grid)
        want = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(Blank("roi", grid).roi_logits(logits, ROIS, size), want, atol=1e-4, rtol=0)
    for grid, factor in (((112, 112), 2), ((56, 84), 4), ((6, 9), 3)):
        logits = random_map(2, 3, *grid)
        got = Blank("roi", grid).roi_logits(logits, ROIS[:2], (grid[0] // factor, grid[1] // factor))
        torch.testing.assert_close(got, F.avg_pool2d(logits, factor), atol=1e-4, rtol=0)


def ramp(decoder):
    """A map in the image frame whose two channels are the x and the y of each cell's centre, in pixels."""
    h, w = decoder.output_size
    x = (torch.arange(w) + 0.5) * decoder.image_size[1] / w
    y = (torch.arange(h) + 0.5) * decoder.image_size[0] / h
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)])


@pytest.mark.parametrize("grid", [(16, 24), (64, 96), (8, 24)])
@pytest.mark.parametrize("size", [(5, 7), (56, 56)])
def test_a_map_over_the_input_is_read_where_the_roi_is(grid, size):
    decoder = Blank("image", grid)
    rois = torch.tensor([[0, 12.5, 14.25, 40.0, 50.0], [0, 30.0, 10.0, 80.5, 30.5], [1, 48, 32, 49, 34]])
    got = decoder.roi_logits(ramp(decoder).expand(3, 2, *grid), rois, size)
    assert got.shape == (3, 2, *size)
    for values, (_, x1, y1, x2, y2) in zip(got, rois.tolist(), strict=True):
        x = x1 + (torch.arange(size[1]) + 0.5) * (x2 - x1) / size[1]
        y = y1 + (torch.arange(size[0]) + 0.5) * (y2 - y1) / size[0]
        torch.testing.assert_close(values[0], x.expand(size), atol=1e-3, rtol=0)
        torch.testing.assert_close(values[1], y[:, None].expand(size), atol=1e-3, rtol=0)


class Around(Blank):
    """A decoder within a decoder."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.parts = nn.ModuleList([nn.Identity(), nn.Sequential(inner)])


@pytest.mark.parametrize(("options", "wanted"), [
    ({}, ()), ({"film": 1.0}, ("pixel_size",)), ({"detail": 4}, ("image",)),
    ({"film": 0.5, "detail": 4}, ("image", "pixel_size")),
])  # fmt: skip
def test_context_inputs_name_what_its_options_read_also_of_decoders_within(options, wanted):
    assert Blank(**options).context_inputs == wanted
    assert Around(Blank(**options)).context_inputs == wanted
    both = Around(Blank(**options), film=2.0).context_inputs
    assert both == tuple(name for name in ("image", "pixel_size") if name in (*wanted, "pixel_size"))


@pytest.mark.parametrize("make", [Blank, lambda **shared: RoiAlignDecoder([4], [8], IMAGE_SIZE, **shared)])
@pytest.mark.parametrize(("options", "known", "words"), [
    ({"film": 1.0}, {}, r"`film` needs context\.pixel_size"),
    ({"detail": 4}, {}, r"`detail` needs context\.image"),
    ({"film": 1.0, "detail": 4}, {"image": torch.zeros(2, 3, *IMAGE_SIZE)}, "pixel_size"),
    ({"film": 1.0, "detail": 4}, {"pixel_size": torch.ones(2)}, "image"),
])  # fmt: skip
def test_what_is_missing_is_named(make, options, known, words):
    decoder = make(**options)
    features = random_features(decoder, 2)
    with pytest.raises(ValueError, match=words):
        decoder(features, ROIS, Context(**known) if known else None)


def test_the_detail_branch_reads_the_window_of_the_logits():
    dark = torch.zeros(1, 3, *IMAGE_SIZE)
    dark[..., ::2, :] = 1  # so that the crop's colours have a spread
    spot = dark.clone()
    spot[:, :, 50:60, 70:90] = 5  # outside of the ROI
    roi = torch.tensor([[0.0, 8, 8, 40, 40]])
    for frame, seen in (("roi", False), ("image", True)):
        torch.manual_seed(0)
        decoder = Blank(frame, (16, 24), detail=4)
        features = random_features(decoder, 1)
        one, two = (decoder(features, roi, Context(image=image)).logits for image in (dark, spot))
        assert torch.equal(one, two) != seen
