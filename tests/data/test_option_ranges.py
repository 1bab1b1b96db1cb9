"""Options of the data classes out of range, as the configuration check finds them."""

from __future__ import annotations

import re

import pytest
from helpers import user_error
from hydra.utils import get_object

from roiseg.common.errors import UserError
from roiseg.config.validation import check_types

OUT_OF_RANGE = {
    "roiseg.data.datamodule.RoiDataModule": {
        "batch_size": [0], "val_batch_size": [0, 1.5], "num_workers": [-1], "min_roi_size": [-1, "big"],
        "metric_size": [[0, 5], [-1, 5], [5], [5, 5, 5], []], "on_error": ["ignore"], "crowd": ["both"],
    },
    "roiseg.data.augment.GeometricAugment": {
        "flip": [2, -0.1], "scale": [[0, 1], [-1, 1], [1, "x"]], "aspect": [-1, float("inf")], "shift": [1.1],
    },
    "roiseg.data.augment.AugmentationPool": {"size": [0], "refresh": [0]},
    "roiseg.data.copy_paste.CopyPaste": {
        "probability": [1.5], "near": [-0.1], "tone": [2], "people": [0], "max_zoom": [0], "scale": [[0, 1]],
    },
    "roiseg.data.samplers.RoiSampler": {
        "rois_per_image": [0], "jitter_share": [1.5], "jitter_center": [-1], "hard_weight": [float("nan")],
    },
    "roiseg.data.tta.TTA": {"crop_scales": [[1.0, 2.0]], "max_crop_share": [0, 0.8]},
    "roiseg.data.folds.Folds": {"number": [1], "held_out": [-1]},
    "roiseg.synthetic.dataset.SyntheticPeople": {"train_images": [0, 10**6], "val_images": [-1], "seed": [-1]},
    "roiseg.synthetic.detector_training.TinyDetector": {"images": [0], "steps": [0], "lr": [0], "threads": [0]},
}  # fmt: skip
CASES = [
    (target, key, bad)
    for target, keys in OUT_OF_RANGE.items()
    for key, values in keys.items()
    for bad in values
]


@pytest.mark.parametrize(("target", "key", "bad"), CASES, ids=str)
def test_a_value_out_of_range_is_named(target, key, bad):
    message = user_error(check_types, {"_target_": target, key: bad}, "node")
    assert re.match(rf"configuration `node\.{key}` is {re.escape(repr(bad))}: it", message)


@pytest.mark.parametrize(
    ("target", "options", "field"),
    [("roiseg.data.augment.GeometricAugment", {"scale": (2, 1)}, r"data\.augment\.geometric\.scale"),
     ("roiseg.data.copy_paste.CopyPaste", {"scale": (1.4, 0.7)}, r"data\.augment\.paste\.scale"),
     ("roiseg.data.copy_paste.CopyPaste", {"scale": (1.0,)}, r"data\.augment\.paste\.scale"),
     ("roiseg.data.folds.Folds", {"number": 5, "held_out": 5}, r"data\.folds\.held_out must be 0 to 4")],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(target, options, field):
    with pytest.raises(UserError, match=field):
        get_object(target)(**options)
