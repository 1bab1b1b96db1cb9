"""Options out of range are refused when the configuration is checked."""

from __future__ import annotations

import pytest

from roiseg.common.errors import UserError
from roiseg.config.validation import check_types

CASES = {
    "extractor.postprocess.yolo.Yolox": {
        "labels": [[], [0, -1]], "score_threshold": [-0.1, 1], "iou_threshold": [0, 1.1], "max_detections": [0],
        "strides": [[], [8, 0], [-8]],
    },
    "extractor.postprocess.rows.BoxesAndScores": {"form": ["xywh"], "activation": ["relu"]},
    "extractor.cache.memory.MemoryCache": {"budget_gb": [0, -1.0]},
    "extractor.cache.disk.DiskCache": {"budget_gb": [0]},
    "inference.writers.crops.CropsWriter": {"ratio": [0.9], "min_size": [0]},
    "inference.writers.image.OverlayWriter": {"alpha": [1.5]},
    "inference.writers.image.SixPanelWriter": {"panel_width": [0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("target", "option", "value"),
    [
        (t, option, value)
        for t, options in CASES.items()
        for option, values in options.items()
        for value in values
    ],
)
def test_an_option_out_of_range_is_refused_by_name(target, option, value):
    with pytest.raises(UserError, match=rf"`at\.{option}` is "):
        check_types({"_target_": f"roiseg.{target}", option: value}, "at")
