"""Heads that are misread give boxes that cannot be; each is told once, a head that is read rightly is not."""

import numpy as np
import pytest

from roiseg.extractor.postprocess.rows import BoxesAndScores, Rows
from roiseg.extractor.postprocess.yolo import Yolo, Yolox

SIZE = (64, 96)
CORNERS = ["x1", "y1", "x2", "y2", "score"]
CELLS = 12 * 8 + 6 * 4 + 3 * 2
FEW = np.where(np.arange(CELLS) % 20 == 0, 0.9, 0.01)[:, None]  # scores


def boxes():
    """cx, cy, w, h in pixels."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(10, 54, (CELLS, 2)), rng.uniform(8, 30, (CELLS, 2))], axis=1)


def corners():
    return np.concatenate([boxes()[:, :2] - boxes()[:, 2:] / 2, boxes()[:, :2] + boxes()[:, 2:] / 2], axis=1)


SHARES = [96, 64, 96, 64]
DECODED = np.concatenate([boxes(), FEW, np.ones((CELLS, 1))], axis=1)[None]
CASES = {
    "boxes in 0..1 as pixels": (
        BoxesAndScores(normalized=True), BoxesAndScores(normalized=False),
        np.concatenate([boxes() / SHARES, FEW], axis=1),
    ),
    "pixels as boxes in 0..1": (Rows(CORNERS), Rows(CORNERS, normalized=True), np.concatenate([corners(), FEW], axis=1)),
    "a decoded YOLOX head": (Yolo(objectness=True), Yolox(), DECODED),
    "logits as probabilities": (
        BoxesAndScores(activation="sigmoid"), BoxesAndScores(),
        np.concatenate([boxes() / SHARES, np.log(FEW / (1 - FEW))], axis=1),
    ),
    "width and height as a corner": (
        Rows(["x1", "y1", "w", "h", "score"]), Rows(CORNERS),
        np.concatenate([corners()[:, :2] + 20, [[12, 9]] * CELLS, FEW], axis=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_misread_head_is_told_once(name, caplog):
    right, wrong, raw = CASES[name]
    assert len(right(raw, SIZE)) > 3
    assert not right.plausibility.warning and not caplog.records
    for _ in range(3):
        wrong(raw, SIZE)
    (record,) = caplog.records
    assert "misread" in record.message and "conf/postprocess" in record.message


@pytest.mark.parametrize(("labels", "category", "doubt"), [
    ([0], 1, False), ([0], 0, False), ([1], 1, False), ([2], 3, False), (None, 3, False),
    ([0, 1], 3, False), ([0], 3, True), ([1], 3, True),
])  # fmt: skip
def test_persons_for_another_category_are_doubted(labels, category, doubt):
    assert bool(Yolo(labels=labels).label_warning(category)) == doubt
