import numpy as np
import pytest
from slow_heads import assert_found, choose, yolo_boxes, yolox_boxes

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.yolo import Yolo, Yolox

SIZE = (96, 128)


def yolo_head(seed, cells=252, classes=5):
    """[1, 4 + C, cells]."""
    rng = np.random.default_rng(seed)
    boxes = [rng.uniform(-10, 140, (2, cells)), rng.uniform(2, 60, (2, cells))]
    return np.concatenate([*boxes, rng.random((classes, cells))])[None].astype(np.float32)


def yolox_head(image_size, strides, classes):
    """[1, cells, 5 + C]."""
    rng = np.random.default_rng(0)
    cells = sum((image_size[0] // s) * (image_size[1] // s) for s in strides)
    boxes = np.concatenate([rng.uniform(-1, 2, (cells, 2)), rng.normal(0.5, 0.8, (cells, 2))], 1)
    return np.concatenate([boxes, rng.random((cells, 1 + classes))], 1)[None].astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("labels", "iou"), [([0], 0.3), ([4, 1], 0.7), (None, None)])
def test_boxes_of_a_yolo_head_are_what_slow_decoding_gives(transposed, labels, iou):
    raw = yolo_head(0)
    detector = Yolo(labels=labels, score_threshold=0.5, iou_threshold=iou, max_detections=40)
    found = detector(raw.transpose(0, 2, 1) if transposed else raw, SIZE)
    assert len(found) > 3
    assert_found(found, choose(yolo_boxes(raw[0], labels or range(5)), SIZE, 0.5, iou, 40))


def test_objectness_multiplies():
    raw = yolo_head(1)  # its first class score is read as objectness
    found = Yolo(objectness=True, labels=[1], score_threshold=0.5)(raw.transpose(0, 2, 1), SIZE)
    plain = raw.copy()[:, [0, 1, 2, 3, 6]]
    plain[:, 4] *= raw[:, 4]
    wanted = choose(yolo_boxes(plain[0], [0]), SIZE, 0.5, 0.45, 100)
    assert_found(found, [(box, score, 1) for box, score, _ in wanted])


def test_mask_coefficients_after_named_classes_do_no_harm_and_a_class_the_head_lacks_is_named():
    raw = yolo_head(2)
    longer = np.concatenate([raw, np.full((1, 32, 252), 50, np.float32)], 1)
    detector = Yolo(labels=[0, 4])
    assert np.array_equal(detector(raw, SIZE).boxes, detector(longer, SIZE).boxes)
    with pytest.raises(UserError, match=r"5 classes from 0 on: extractor\.postprocess\.labels names 5"):
        Yolo(labels=[5])(yolo_head(0), SIZE)


@pytest.mark.parametrize(
    ("size", "strides", "labels", "iou"),
    [((64, 96), (8, 16, 32), [0], 0.45), ((64, 64), (16,), [1, 3], 0.6), ((48, 64), (8, 16), [2, 0], None)],
)
def test_boxes_of_a_yolox_head_are_what_slow_decoding_gives(size, strides, labels, iou):
    raw = yolox_head(size, strides, 4)
    detector = Yolox(strides, labels=labels, score_threshold=0.4, iou_threshold=iou, max_detections=15)
    found = detector(raw, size)
    assert 3 < len(found) <= 15
    assert_found(found, choose(yolox_boxes(raw, size, strides, labels), size, 0.4, iou, 15), atol=1e-3)


def test_numbers_that_overflow_give_no_box_or_one_cut_to_the_input():
    raw = yolox_head((32, 32), [8], 1)
    raw[0, :, 4:] = 0
    raw[0, 0] = [0, 0, 500, 500, 1, 1]  # exp overflows
    raw[0, 1] = [9, 9, 0, 0, 1, 1]  # outside
    assert Yolox([8])(raw, (32, 32)).boxes.tolist() == [[0, 0, 32, 32]]
    raw[0, 2, 0] = np.nan
    with pytest.raises(UserError, match="contains nan"):
        Yolox([8])(raw, (32, 32))


OTHER_SHAPES = [
    (Yolo(), [(2, 84, 8400), (84, 8400), (1, 4, 8400), (1, 84, 80, 80)], r"\[1, 4 \+ classes, cells\]"),
    (Yolox(), [(1, 83, 6), (2, 84, 6), (84, 6), (1, 84, 5), (1, 6, 84)], r"\[1, 84, 5 \+ classes\]"),
]


@pytest.mark.parametrize(("detector", "shapes", "words"), OTHER_SHAPES, ids=["yolo", "yolox"])
def test_another_shape_is_refused_with_both(detector, shapes, words):
    for shape in shapes:
        with pytest.raises(UserError, match=words) as caught:
            detector(np.zeros(shape, np.float32), (64, 64))
        assert str(list(shape)) in str(caught.value)
