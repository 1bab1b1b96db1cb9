from __future__ import annotations

import pytest

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.yolo import Yolox


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("labels", []),
        ("labels", [0, -1]),
        ("score_threshold", -0.1),
        ("score_threshold", 1),
        ("iou_threshold", 0),
        ("iou_threshold", 1.1),
        ("max_detections", 0),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(UserError, match=rf"extractor\.postprocess\.{option}"):
        Yolox(**{option: value})
