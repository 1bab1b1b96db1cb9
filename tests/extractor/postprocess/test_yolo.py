from __future__ import annotations

import numpy as np
import pytest
from slow_heads import choose, yolo_boxes

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.yolo import Yolo

SIZE = (96, 128)


def random_head(seed, cells=252, classes=5):
    """[1, 4 + C, cells]."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-10, 140, (2, cells))
    return np.concatenate([centre, rng.uniform(2, 60, (2, cells)), rng.random((classes, cells))])[
        None
    ].astype(np.float32)


def assert_equal(found, wanted):
    assert 3 < len(found) == len(wanted)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in wanted], atol=1e-4)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in wanted], atol=1e-6)
    assert found.labels.tolist() == [label for _, _, label in wanted]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("labels", "iou"), [([0], 0.3), ([4, 1], 0.7), (None, None)])
def test_boxes_are_what_slow_decoding_gives(transposed, labels, iou):
    raw = random_head(0)
    detector = Yolo(labels=labels, score_threshold=0.5, iou_threshold=iou, max_detections=40)
    found = detector(raw.transpose(0, 2, 1) if transposed else raw, SIZE)
    assert_equal(found, choose(yolo_boxes(raw[0], labels or range(5)), SIZE, 0.5, iou, 40))


def test_objectness_multiplies():
    raw = random_head(1)  # its first class score is read as objectness
    found = Yolo(objectness=True, labels=[1], score_threshold=0.5)(raw.transpose(0, 2, 1), SIZE)
    plain = raw.copy()[:, [0, 1, 2, 3, 6]]
    plain[:, 4] *= raw[:, 4]
    wanted = choose(yolo_boxes(plain[0], [0]), SIZE, 0.5, 0.45, 100)
    assert_equal(found, [(box, score, 1) for box, score, _ in wanted])


def test_mask_coefficients_after_the_classes_do_no_harm_where_labels_are_named():
    raw = random_head(2)
    longer = np.concatenate([raw, np.full((1, 32, 252), 50, np.float32)], 1)
    detector = Yolo(labels=[0, 4])
    assert np.array_equal(detector(raw, SIZE).boxes, detector(longer, SIZE).boxes)


@pytest.mark.parametrize("shape", [(2, 84, 8400), (84, 8400), (1, 4, 8400), (1, 84, 80, 80)])
def test_another_shape_is_refused(shape):
    with pytest.raises(UserError, match=r"raw YOLO head is \[1, 4 \+ classes, cells\]"):
        Yolo()(np.zeros(shape, np.float32), SIZE)


def test_a_class_the_head_does_not_have_is_named():
    with pytest.raises(UserError, match=r"5 classes from 0 on: extractor\.postprocess\.labels names 5"):
        Yolo(labels=[5])(random_head(0), SIZE)
