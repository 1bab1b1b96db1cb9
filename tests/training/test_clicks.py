"""Point prompts drawn from the truth."""

import pytest
import torch

from roiseg.common.errors import UserError
from roiseg.training.clicks import Clicks

WINDOW = torch.tensor([[10.0, 20, 34, 36]])  # 24 x 16 pixels


def targets(*rows):
    """One ROI's class map [1, h, w] of digits; 9 is ignored."""
    grid = torch.tensor([[int(c) for c in row] for row in rows], dtype=torch.uint8)
    return torch.where(grid == 9, 255, grid)[None]


MIXED = targets("000111", "002211", "990000", "990000")  # cells of 4 x 4 pixels


def cells(points, window, grid):
    """The (row, column) of each click's cell, and where in the cell it is (0..1)."""
    x1, y1, x2, y2 = window.tolist()
    columns = (points[:, 0] - x1) / (x2 - x1) * grid[1]
    rows = (points[:, 1] - y1) / (y2 - y1) * grid[0]
    return torch.stack([rows, columns], dim=1).long(), torch.stack([rows % 1, columns % 1], dim=1)


def draw(clicks, maps, windows=WINDOW, seed=0):
    torch.manual_seed(seed)
    return clicks(maps, windows)


def classes_hit(points, maps, windows):
    """The class under each click: [R, P]."""
    hit = []
    for own, labels, window in zip(points, maps, windows, strict=True):
        places, _ = cells(own, window, labels.shape)
        hit.append(labels[places[:, 0], places[:, 1]])
    return torch.stack(hit)


def test_every_cell_of_the_class_is_clicked_about_equally_often_at_its_centre():
    points = draw(Clicks(5000, 0, share=1.0), MIXED)[0]
    places, within = cells(points, WINDOW[0], (4, 6))
    torch.testing.assert_close(within, torch.full_like(within, 0.5), atol=1e-4, rtol=0)
    counts = torch.zeros(4, 6)
    for row, column in places.tolist():
        counts[row, column] += 1
    on = (MIXED[0] == 1).float()
    assert not counts[on == 0].any()
    assert (counts[on == 1] / 5000 - 1 / 5).abs().max() < 0.03


def test_without_a_non_target_negative_clicks_lie_on_the_background_never_on_ignored_cells():
    maps = targets("000111", "000011", "999999", "999999")
    points = draw(Clicks(0, 200, share=1.0), maps)
    assert set(classes_hit(points, maps, WINDOW)[0].tolist()) == {0}
    assert (points[0, :, 2] == 0).all()


@pytest.mark.parametrize(
    ("maps", "labels"),
    [
        (targets("0022", "0000"), [-1, -1, 0]),  # no target
        (targets("1111", "1111"), [1, 1, -1]),  # nothing else
        (targets("1199", "9999"), [1, 1, -1]),
        (targets("9999", "9999"), [-1, -1, -1]),
    ],
    ids=["no target", "only target", "target and ignored", "all ignored"],
)
def test_a_click_that_is_impossible_is_labelled_minus_1(maps, labels):
    points = draw(Clicks(2, 1, share=1.0), maps)
    assert points[0, :, 2].tolist() == labels
    assert torch.isfinite(points).all()


def test_each_roi_is_clicked_in_its_own_window():
    maps = torch.cat([MIXED, MIXED.flip(2), targets("111111", "111111", "000000", "222222")])
    windows = torch.tensor([[10.0, 20, 34, 36], [-8, 0, 4, 50], [100, 3.5, 101, 4]])
    assert draw(Clicks(5, 5), maps[:0], windows[:0]).shape == (0, 10, 3)
    points = draw(Clicks(5, 5, share=1.0), maps, windows)
    assert classes_hit(points, maps, windows).tolist() == [[1] * 5 + [2] * 5] * 3
    for own, (x1, y1, x2, y2) in zip(points, windows.tolist(), strict=True):
        assert (own[:, 0] > x1).all() and (own[:, 0] < x2).all()
        assert (own[:, 1] > y1).all() and (own[:, 1] < y2).all()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 0.26, 0.34), (1.0, 1, 1)])
def test_about_that_share_of_the_rois_gets_clicks_all_of_them_or_none(share, low, high):
    maps, windows = MIXED.expand(2000, 4, 6), WINDOW.expand(2000, 4)
    labels = draw(Clicks(2, 1, share), maps, windows)[:, :, 2]
    with_clicks = (labels != -1).any(dim=1)
    assert low <= with_clicks.float().mean() <= high
    assert (labels[with_clicks] == torch.tensor([1.0, 1.0, 0.0])).all()
    assert (labels[~with_clicks] == -1).all()


def test_no_clicks_at_all_is_a_user_error():
    with pytest.raises(UserError, match="all are 0"):
        Clicks(positive=0, negative=0)
