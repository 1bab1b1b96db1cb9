"""What is believed of a checkpoint's configuration, and what is not."""

from pathlib import Path

import pytest

from roiseg.common.errors import UserError
from roiseg.config.evaluation_setup import trusted_node, trusted_values

PATH = Path("some.pth")
NODE = {"_target_": "roiseg.data.tta.TTA", "crop_scales": [2.0, 3.0], "max_crop_share": 0.4}


def tta(node):
    return trusted_node({"tta": node}, "tta", "roiseg.data.tta", PATH)


def test_files_and_numbers_of_the_data_set_and_nothing_else():
    data = {
        "val_annotations": "a.json", "metric_size": [56, 56], "category_id": 1, "index_dir": "/somewhere",
        "source": {"_target_": "os.system"}, "sampler": {"_target_": "x.Y"}, "num_workers": 8,
    }  # fmt: skip
    expected = {"val_annotations": "a.json", "metric_size": [56, 56], "category_id": 1}
    assert trusted_values({"data": data}, PATH) == expected and trusted_values({}, PATH) == {}


def test_a_text_that_would_be_computed_and_a_value_that_would_be_built_are_refused():
    for value in ("${oc.env:HOME}/x.json", "/x/${hydra:runtime.cwd}"):
        with pytest.raises(UserError, match="val_images"):
            trusted_values({"data": {"val_images": value}}, PATH)
    with pytest.raises(UserError, match="not trusted"):
        trusted_values({"data": {"val_images": {"_target_": "roiseg.data.tta.TTA"}}}, PATH)


def test_a_node_of_the_right_class_is_taken():
    assert tta(NODE) == NODE
    assert tta(None) is None and trusted_node({}, "tta", "roiseg.data.tta", PATH) is None


@pytest.mark.parametrize("node", [
    {"_target_": "os.system", "command": "true"}, {"_target_": "roiseg.data.tta.np.save"},
    {"_target_": "roiseg.synthetic.SyntheticPeople", "root": "/"},
    {"_target_": "roiseg.data.tta.Letterbox"}, {**NODE, "crop_scales": [{"_target_": "os.system"}]},
    {**NODE, "max_crop_share": "${oc.env:HOME}"}, {**NODE, "_args_": [1]}, {"crop_scales": [2.0]}, "small",
    [1],
])  # fmt: skip
def test_anything_else_is_refused(node):
    with pytest.raises(UserError):
        tta(node)
