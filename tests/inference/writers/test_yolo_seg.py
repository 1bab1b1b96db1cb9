"""Outlines as a training tool reads them, drawn by OpenCV, against the masks."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from writer_cases import SIZE, disc, masks, nobody, result, write

from roiseg.inference.writers.annotations import YoloSegWriter, join_outlines


def drawn(line):
    """Class and mask [H, W] of a line, by a reader that truncates as ultralytics' does."""
    words = line.split()
    points = np.array(words[1:], float).reshape(-1, 2) * (SIZE[1], SIZE[0])
    return int(words[0]), filled([points])


def filled(outlines):
    canvas = np.zeros(SIZE, np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [outline.astype(np.int32)], 1)
    return canvas.astype(bool)


def contours_of(mask):
    return cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]


def test_a_line_an_instance_that_fills_to_its_mask(tmp_path):
    write(YoloSegWriter(class_id=5), tmp_path, [result(), nobody()])
    lines = (tmp_path / "yolo_seg/x/a.txt").read_text().splitlines()
    assert len(lines) == 3  # who has no pixel has no line
    first, ring, two, _ = masks()
    assert drawn(lines[0])[0] == 5
    assert np.array_equal(drawn(lines[0])[1], first)
    assert np.array_equal(drawn(lines[1])[1], filled(contours_of(ring)))  # its hole, too
    bridge = drawn(lines[2])[1] & ~two
    assert not (two & ~drawn(lines[2])[1]).any()
    assert 0 < bridge.sum() <= 12  # a pixel wide, from one disc to the other
    assert (tmp_path / "yolo_seg/x/empty.txt").read_text() == ""


@given(st.lists(st.tuples(st.integers(5, 75), st.integers(5, 55), st.integers(2, 9)), min_size=1, max_size=6))
def test_joined_pieces_fill_to_all_of_them(discs):
    mask = np.any([disc(*one) for one in discs], axis=0)
    pieces = [contour.reshape(-1, 2).astype(np.float32) for contour in contours_of(mask)]
    outline = join_outlines(pieces)
    got, whole = filled([outline]), filled(pieces)
    assert not (whole & ~got).any()
    lines = np.zeros(SIZE, np.uint8)
    cv2.polylines(lines, [outline.astype(np.int32)], True, 1)
    assert not (got & ~whole & ~lines.astype(bool)).any()  # nothing but bridges is added
    assert {tuple(p) for p in outline.tolist()} == {tuple(p) for piece in pieces for p in piece.tolist()}
