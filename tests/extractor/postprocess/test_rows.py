import numpy as np
import pytest
from slow_heads import assert_found, choose

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.rows import Rows

SIZE = (96, 128)
WHOLEBODY = ["ignored", "label", "score", "x1", "y1", "x2", "y2"]


def people(seed=0, count=12):
    """(boxes [N, 4] x1, y1, x2, y2 some of which reach beyond the input, scores [N], labels [N])."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], 1).round(2)
    return boxes, rng.uniform(0.05, 0.99, count).round(3), rng.integers(0, 3, count)


def expected(boxes, scores, labels, wanted=(0,), iou_threshold=None):
    found = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    return choose([one for one in found if one[2] in wanted], SIZE, 0.25, iou_threshold, 100)


@pytest.mark.parametrize("batched", [False, True])
def test_batch_number_class_score_and_corners(batched):
    """[N, 7] as YOLOv9 wholebody files give: batch number, class, score, x1, y1, x2, y2."""
    boxes, scores, labels = people()
    raw = np.concatenate([np.zeros((12, 1)), labels[:, None], scores[:, None], boxes], 1).astype(np.float32)
    found = Rows(WHOLEBODY)(raw[None] if batched else raw, SIZE)
    assert_found(found, expected(boxes, scores, labels))


@pytest.mark.parametrize(
    ("form", "normalized"), [("x1 y1 x2 y2", True), ("cx cy w h", True), ("x1 y1 w h", False)]
)
def test_every_kind_of_box_in_any_order_of_columns(form, normalized):
    boxes, scores, labels = people(1)
    x1, y1, x2, y2 = boxes.T
    values = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": scores, "label": labels}
    values |= {"cx": (x1 + x2) / 2, "cy": (y1 + y2) / 2, "w": x2 - x1, "h": y2 - y1}
    columns = ["label", *reversed(form.split()), "score"]
    scale = {"x1": 128, "x2": 128, "cx": 128, "w": 128, "y1": 96, "y2": 96, "cy": 96, "h": 96}
    raw = np.stack([values[c] / (scale.get(c, 1) if normalized else 1) for c in columns], 1)
    found = Rows(columns, normalized=normalized, labels=[0, 2])(raw.astype(np.float32), SIZE)
    assert_found(found, expected(boxes, scores, labels, (0, 2)))


def test_objectness_multiplies_and_without_labels_all_rows_count():
    boxes, scores, _ = people(2)
    raw = np.concatenate([boxes, scores[:, None], np.full((12, 1), 0.8)], 1).astype(np.float32)
    found = Rows(["x1", "y1", "x2", "y2", "score", "objectness"])(raw, SIZE)
    assert_found(found, expected(boxes, scores * 0.8, np.zeros(12, int)))


def test_nms_is_done_where_asked():
    boxes, scores, labels = people(3, 60)
    raw = np.concatenate([boxes, scores[:, None], labels[:, None]], 1).astype(np.float32)
    columns = ["x1", "y1", "x2", "y2", "score", "label"]
    found = Rows(columns, iou_threshold=0.3, labels=None)(raw, SIZE)
    wanted = expected(boxes, scores, labels, (0, 1, 2), 0.3)
    assert len(wanted) < len(Rows(columns, labels=None)(raw, SIZE))
    assert_found(found, wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_number_types_and_no_rows_are_read(dtype):
    raw = np.array([[0, 0, 0.5, 4, 8, 16, 32]], dtype)
    assert Rows(WHOLEBODY)(raw, SIZE).boxes.tolist() == [[4, 8, 16, 32]]
    assert [Rows(WHOLEBODY)(none, SIZE).boxes.shape for none in (raw[:0], raw[None, :0])] == [(0, 4)] * 2


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 8), (2, 5, 7), (7,), (1, 1, 5, 7)])
def test_another_number_of_columns_is_refused(shape):
    with pytest.raises(UserError, match=r"extractor\.postprocess\.columns names 7 columns, \[N, 7\]"):
        Rows(WHOLEBODY)(np.zeros(shape, np.float32), SIZE)


@pytest.mark.parametrize(("columns", "words"), [
    (["x1", "y1", "x2", "y2", "scores"], "`scores` is not known .*score"),
    (["x1", "y1", "x2", "y2"], "must name score"), (["x1", "y1", "w", "y2", "score"], "one kind of box"),
    (["x1", "y1", "x2", "y2", "w", "h", "score"], "one kind of box"),
    (["x1", "y1", "x2", "y2", "score", "score"], "each once"),
    ([], "must name score"),
])  # fmt: skip
def test_columns_of_which_no_box_can_be_made_are_refused(columns, words):
    with pytest.raises(UserError, match=rf"extractor\.postprocess\.columns.*{words}"):
        Rows(columns)
