from __future__ import annotations

import pytest

from benchmarks.paste import WAYS, agreement, persons

pytestmark = pytest.mark.slow


def test_all_ways_paste_the_same_masks():
    size = (90, 120)
    masks, boxes = persons(5, size)
    results = {name: list(way(masks, boxes, size)) for name, way in WAYS.items()}
    exact = results.pop("all canvases at once")
    for found in results.values():
        assert agreement(found, exact) > 0.99
    assert results["one canvas after another"] == results["ours: windows"]
