from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from roiseg.geometry.paste import binary_mask
from roiseg.geometry.rle import paste_rles

SIZE = (40, 52)
edges = st.floats(-30, 80, width=32)


def random_masks(count, height, width, seed=0):
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed))


def some_boxes(draw, count):
    corners = np.array(draw(st.lists(st.tuples(edges, edges, edges, edges), min_size=count, max_size=count)))
    corners = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4).astype(np.float32)
    corners[:, 2:] += 0.5
    return corners


@st.composite
def cases(draw):
    """Masks, boxes, limits and threshold."""
    count, sides = draw(st.integers(0, 4)), st.integers(1, 9)
    masks = random_masks(count, draw(sides), draw(sides), draw(st.integers(0, 99))).requires_grad_()
    within = draw(st.sampled_from([None, some_boxes(draw, count)]))
    return masks, some_boxes(draw, count), within, draw(st.sampled_from([0.5, 0.2]))


@given(cases())
def test_encodings_are_those_of_full_canvases_by_pycocotools(case):
    masks, boxes, within, threshold = case
    got = list(paste_rles(masks, boxes, SIZE, within, threshold))
    assert len(got) == len(masks)
    for n, rle in enumerate(got):
        limit = None if within is None else within[n]
        whole = binary_mask(masks[n].detach(), boxes[n], SIZE, within=limit, threshold=threshold)
        assert rle == coco_mask.encode(np.asfortranarray(whole, dtype=np.uint8))


def test_thousands_of_persons_on_a_huge_image_need_one_window():
    size, boxes = (30_000, 40_000), np.tile(np.float32([10_000, 20_000, 10_300, 20_500]), (1000, 1))
    masks = torch.ones(1, 4, 4).expand(1000, 4, 4)
    tracemalloc.start()
    some = list(itertools.islice(paste_rles(masks, boxes, size), 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [int(coco_mask.area(rle)) for rle in some] == [300 * 500] * 3
    assert peak < 20 * 300 * 500
