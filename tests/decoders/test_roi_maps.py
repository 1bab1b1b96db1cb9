"""Maps of where a ROI lies, against a plain loop over cells."""

from __future__ import annotations

import numpy as np
import torch

from roiseg.decoders.unet import ROI_MAPS, roi_maps

ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, -4.0, -6.0, 33.0, 30.0],  # over the border
    [1, 50.0, 20.0, 51.0, 61.0],  # narrow: relative coordinates reach the limit
    [1, 0.0, 0.0, 96.0, 64.0],
])  # fmt: skip


def loop(rois, image_size, size):
    """The same in float64, a cell at a time; the share inside by counting 100 points an axis."""
    height, width = image_size
    cell_y, cell_x = height / size[0], width / size[1]
    maps = np.zeros((len(rois), 7, *size))
    for n, (_, x1, y1, x2, y2) in enumerate(rois.tolist()):
        for row in range(size[0]):
            for column in range(size[1]):
                x, y = (column + 0.5) * cell_x - (x1 + x2) / 2, (row + 0.5) * cell_y - (y1 + y2) / 2
                points_x = (column + (np.arange(100) + 0.5) / 100) * cell_x
                points_y = (row + (np.arange(100) + 0.5) / 100) * cell_y
                inside_x = ((points_x > x1) & (points_x < x2)).mean()
                inside_y = ((points_y > y1) & (points_y < y2)).mean()
                maps[n, :, row, column] = [
                    inside_x * inside_y,
                    x / width,
                    y / height,
                    (x2 - x1) / width,
                    (y2 - y1) / height,
                    min(4, max(-4, x / (x2 - x1))),
                    min(4, max(-4, y / (y2 - y1))),
                ]
    return maps


def test_maps_equal_a_plain_loop_over_cells():
    for size in [(8, 12), (16, 24), (5, 7)]:
        maps = roi_maps(ROIS, (64, 96), size).numpy()
        assert maps.shape == (4, len(ROI_MAPS), *size)
        expected = loop(ROIS, (64, 96), size)
        np.testing.assert_allclose(maps[:, 1:], expected[:, 1:], atol=1e-5)
        np.testing.assert_allclose(maps[:, 0], expected[:, 0], atol=0.011)  # as fine as points are counted


def test_the_share_inside_adds_up_to_the_area_of_the_roi_within_the_input():
    inside = roi_maps(ROIS, (64, 96), (8, 12))[:, 0]
    areas = torch.tensor([36.5 * 55.75, 33.0 * 30.0, 1.0 * 41.0, 96.0 * 64.0])
    torch.testing.assert_close(inside.sum((1, 2)) * 8 * 8, areas)


def test_an_empty_roi_and_no_roi_give_finite_maps():
    empty = torch.tensor([[0.0, 20.0, 20.0, 20.0, 20.0]])
    assert torch.isfinite(roi_maps(empty, (64, 96), (8, 12))).all()
    assert roi_maps(torch.zeros(0, 5), (64, 96), (8, 12)).shape == (0, 7, 8, 12)


def test_maps_are_float32_for_half_precision_rois_too():
    assert roi_maps(ROIS.half(), (64, 96), (8, 12)).dtype == torch.float32
