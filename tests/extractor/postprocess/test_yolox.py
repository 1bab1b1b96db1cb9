from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_heads import choose, yolox_boxes

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.yolo import Yolox
from tools.tiny_detector.training import decode_rows


def random_head(seed, image_size, strides, classes):
    rng = np.random.default_rng(seed)
    cells = sum((image_size[0] // s) * (image_size[1] // s) for s in strides)
    boxes = np.concatenate([rng.uniform(-1, 2, (cells, 2)), rng.normal(0.5, 0.8, (cells, 2))], 1)
    return np.concatenate([boxes, rng.random((cells, 1 + classes))], 1)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("size", "strides", "labels", "iou"),
    [
        ((64, 96), (8, 16, 32), [0], 0.45),
        ((64, 64), (16,), [1, 3], 0.6),
        ((48, 64), (8, 16), [2, 0], None),
    ],
)
def test_boxes_are_what_slow_decoding_gives(size, strides, labels, iou):
    raw = random_head(0, size, strides, 4)
    detector = Yolox(strides, labels=labels, score_threshold=0.4, iou_threshold=iou, max_detections=15)
    found = detector(raw, size)
    wanted = choose(yolox_boxes(raw, size, strides, labels), size, 0.4, iou, 15)
    assert 3 < len(found) == len(wanted) <= 15
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in wanted], atol=1e-3)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in wanted], atol=1e-6)
    assert found.labels.tolist() == [label for _, _, label in wanted]


def test_the_tiny_detectors_rows_are_read_as_its_own_decoder_reads_them():
    raw = random_head(0, (256, 256), [8], 1)
    boxes, scores, _ = Yolox([8]).decode(torch.from_numpy(raw), (256, 256))
    torch.testing.assert_close(boxes, decode_rows(torch.from_numpy(raw))[0])
    np.testing.assert_allclose(scores, raw[0, :, 4] * raw[0, :, 5])


def test_numbers_that_overflow_give_no_box_or_one_cut_to_the_input():
    raw = random_head(0, (32, 32), [8], 1)
    raw[0, :, 4:] = 0
    raw[0, 0] = [0, 0, 500, 500, 1, 1]  # exp overflows
    raw[0, 1] = [9, 9, 0, 0, 1, 1]  # outside
    found = Yolox([8])(raw, (32, 32))
    assert found.boxes.tolist() == [[0, 0, 32, 32]]
    raw[0, 2, 0] = np.nan
    with pytest.raises(UserError, match="contains nan"):
        Yolox([8])(raw, (32, 32))


@pytest.mark.parametrize("shape", [(1, 83, 6), (2, 84, 6), (84, 6), (1, 84, 5), (1, 6, 84)])
def test_another_shape_is_refused_with_both(shape):
    with pytest.raises(UserError, match=r"extractor\.postprocess.*\[1, 84, 5 \+ classes\]") as caught:
        Yolox((8, 16, 32))(np.zeros(shape, np.float32), (64, 64))
    assert str(list(shape)) in str(caught.value)
