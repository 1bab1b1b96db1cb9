"""What decoders share that draw on a map over the whole input."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, ROIS

from roiseg.decoders.base import DecoderOutput
from roiseg.decoders.layers.image_decoder import ImageDecoder
from roiseg.geometry.roi_align import roi_align

STRIDE = 4
MAP = (16, 24)  # IMAGE_SIZE / STRIDE


class Prepared(ImageDecoder):
    """Draws what it is given."""

    provides = ("field", "vectors", "scores")

    def __init__(self, drawn, frame, map_stride=STRIDE, output_size=(9, 7), image_size=IMAGE_SIZE, **options):
        super().__init__([4], [8], image_size, options.pop("num_classes", 3), map_stride, frame, output_size)
        self.drawn = drawn

    def decode_map(self, features, rois, context):
        return self.drawn


@pytest.fixture
def drawn():
    """Logits and auxiliary outputs of every kind for `ROIS`."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"logits": (3, *MAP), "field": (1, *MAP), "vectors": (5, 2, *MAP), "scores": (7, 2)}
    made = {name: torch.randn(3, *shape, generator=generator) for name, shape in shapes.items()}
    return DecoderOutput(made.pop("logits"), made)


def decode(drawn, frame, rois=ROIS, **options):
    return Prepared(drawn, frame, **options)([torch.zeros(3, 4, 8, 12)], rois)


def test_in_the_image_frame_the_map_itself_is_the_output(drawn):
    output = decode(drawn, "image")
    assert torch.equal(output.logits, drawn.logits)
    assert output.auxiliary.keys() == drawn.auxiliary.keys()
    assert all(torch.equal(output.auxiliary[name], value) for name, value in drawn.auxiliary.items())
    assert output.inside.shape == (3, *MAP)


def test_in_the_roi_frame_every_map_is_read_over_the_roi_and_nothing_else(drawn):
    output = decode(drawn, "roi")
    assert output.inside is None
    assert torch.equal(output.auxiliary["scores"], drawn.auxiliary["scores"])
    for got, maps in (
        (output.logits, drawn.logits),
        (output.auxiliary["field"], drawn.auxiliary["field"]),
        (output.auxiliary["vectors"], drawn.auxiliary["vectors"]),
    ):
        assert got.shape == (*maps.shape[:-2], 9, 7)
        for number, roi in enumerate(ROIS):
            alone = torch.cat([torch.zeros(1), roi[1:]])[None]
            want = roi_align(maps[number].reshape(1, -1, *MAP), alone, (9, 7), STRIDE, 2)[0]
            torch.testing.assert_close(got[number], want.reshape(got[number].shape), atol=1e-5, rtol=0)
