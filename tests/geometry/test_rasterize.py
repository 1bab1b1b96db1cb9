import tracemalloc

import numpy as np
import pytest
from helpers import inside_polygon, uncompressed_rle
from hypothesis import given
from hypothesis import strategies as st

from roiseg.geometry.outlines import Grids, polygon_planes, run_planes, unpack

# corners are whole numbers and no cell centre ever lies on a line between two of them
NO_TIES = np.array([np.pi / 100, np.e / 100])


def centers(grids, g):
    """Pixel coordinates x [w], y [h] under the centres of a grid's cells."""
    (height, width), scale, shift = grids.size, grids.scale[g], grids.shift[g]
    return (np.arange(width) + 0.5 - shift[0]) / scale[0], (np.arange(height) + 0.5 - shift[1]) / scale[1]


def cells(planes, grids):
    """Bits [B, G, n, w] -> bool [G, n, h, w]."""
    several = [unpack(planes[:, :, n])[:, :, : grids.size[0]] for n in range(planes.shape[2])]
    return np.array(several, bool).reshape(-1, *planes.shape[1:2], *grids.size[::-1]).transpose(1, 0, 3, 2)


def rasterize(polygons, grids):
    parts = [np.reshape(polygon, (-1, 2)) for polygon in polygons]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return cells(polygon_planes(np.concatenate(parts).astype(np.float64), starts, grids), grids)


def assert_equals_a_loop(polygons, grids):
    got = rasterize(polygons, grids)
    assert got.shape == (len(grids), len(polygons), *grids.size)
    for g in range(len(grids)):
        for n, polygon in enumerate(polygons):
            np.testing.assert_array_equal(got[g, n], inside_polygon(polygon, *centers(grids, g)))


sides = st.sampled_from([1, 2, 7, 14, 30])


@st.composite
def some_grids(draw):
    count = draw(st.integers(1, 3))
    sign, size = st.sampled_from([-1.0, 1.0]), st.floats(0.05, 9)
    scale = [(draw(sign) * draw(size), draw(size)) for _ in range(count)]
    shift = [(draw(st.integers(-20, 40)), draw(st.integers(-20, 20))) for _ in range(count)]
    height = draw(st.sampled_from([1, 2, 7, 30, 63, 64, 65, 128, 200]))  # a word has 64 bits
    return Grids(np.array(scale), np.array(shift) + NO_TIES, (height, draw(sides)))


corners = st.lists(st.tuples(st.integers(-30, 60), st.integers(-30, 60)), min_size=3, max_size=9)


@given(st.lists(corners, min_size=1, max_size=4), some_grids())
def test_any_polygons_on_any_grids_equal_a_loop_over_the_cells(polygons, grids):
    assert_equals_a_loop(polygons, grids)


PIXELS = Grids(np.ones((1, 2)), np.zeros((1, 2)), (20, 30))
LINES = {
    "level": [3, 3, 9, 3, 6, 3], "there and back": [3.3, 3, 9, 4.4, 20.7, 9.1, 9, 4.4], "twice": [2, 2, 9.7, 17.3, 2, 2],
    "a point": [5, 5, 5, 5, 5, 5], "upright through cell centres": [4.5, -9, 4.5, 40, 4.5, 3],
}  # fmt: skip


@pytest.mark.parametrize("polygon", LINES.values(), ids=LINES)
def test_a_polygon_without_area_is_nowhere(polygon):
    assert not rasterize([polygon], PIXELS).any()


coordinates = st.integers(-2, 44).map(lambda n: n / 2)  # every other one through cell centres


@given(coordinates, coordinates, coordinates, coordinates)
def test_polygons_that_share_an_edge_share_no_cell_and_leave_none(x1, y1, x2, y2):
    frame = [[-9, -9], [39, -9], [39, 29], [-9, 29]]
    line = [[x1, y1], [x2, y2]]  # a way from the left edge to the right one, straight through cell centres
    above = rasterize([[frame[0], frame[1], *line[::-1]]], PIXELS)
    below = rasterize([[*line, frame[2], frame[3]]], PIXELS)
    sides = rasterize([[frame[0], line[0], frame[3]], [frame[1], frame[2], line[1]]], PIXELS)
    count = above[0, 0].astype(int) + below[0, 0] + sides[0, 0] + sides[0, 1]
    assert (count % 2 == 1).all()


def look_up(mask, grids, g):
    """The pixel under each cell's centre; 0 outside."""
    xs, ys = (np.floor(v).astype(int) for v in centers(grids, g))
    padded = np.pad(mask, 1)
    return padded[np.ix_(np.clip(ys, -1, mask.shape[0]) + 1, np.clip(xs, -1, mask.shape[1]) + 1)]


@st.composite
def several_masks(draw):
    size = draw(st.tuples(st.integers(1, 25), st.integers(1, 25)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shares = draw(st.lists(st.sampled_from([0.02, 0.5, 0.98, 1]), min_size=1, max_size=4))
    masks = [rng.random(size) < share for share in shares]
    return [mask for mask in masks if mask.any()], size


@given(several_masks(), some_grids())
def test_runs_equal_a_look_up_in_the_whole_masks(case, grids):
    masks, size = case
    runs = [uncompressed_rle(mask)["counts"] for mask in masks]
    ends = np.cumsum(np.concatenate([[], *runs]).astype(np.int64))
    first = np.cumsum([0] + [len(r) for r in runs])
    got = cells(run_planes(ends, first, size, grids), grids)
    assert got.shape == (len(grids), len(masks), *grids.size)
    for g in range(len(grids)):
        for n, mask in enumerate(masks):
            np.testing.assert_array_equal(got[g, n], look_up(mask, grids, g))


def test_large_masks_need_no_canvas():
    height, width = 30000, 40000
    ends = np.array([5 * height + 7, 30000 * height + 9, height * width])
    grids = Grids(np.full((1, 2), 56 / 30000), np.zeros((1, 2)), (56, 56))
    tracemalloc.start()
    planes = run_planes(ends, np.array([0, 3]), (height, width), grids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cells(planes, grids).all()
    assert peak < 1 << 20
