from __future__ import annotations

import pytest

from benchmarks.paste import SIZE, WAYS, agreement, persons

pytestmark = pytest.mark.slow


def test_all_ways_paste_the_same_masks():
    size = (90, 120)
    masks, boxes = persons(5, size)
    results = {name: list(way(masks, boxes, size)) for name, way in WAYS.items()}
    exact = results.pop("all canvases at once")
    for found in results.values():
        assert agreement(found, exact) > 0.99
    assert results["one canvas after another"] == results["ours: windows"]


def test_persons_lie_within_the_image():
    masks, boxes = persons(50, SIZE)
    assert masks.shape[0] == 50
    assert 0 <= masks.min() <= masks.max() <= 1
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [SIZE[1], SIZE[0]]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
