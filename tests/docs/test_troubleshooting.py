"""Every error line of docs/troubleshooting.md is one that roiseg really prints."""

import json
import re

import pytest
from faults.bad_annotations import SOUND
from helpers import ROOT

import roiseg.train

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
LINES = re.findall(r"^\| `(.*?)` \|", TEXT.partition("## No error")[0], flags=re.MULTILINE)

CROWDS = {**SOUND, "annotations": [{**record, "iscrowd": 1} for record in SOUND["annotations"]]}

# how each line is provoked: overrides of a training on the tiny set
MISTAKES = {
    "annotations file not found": ["data.train_annotations=/nowhere/a.json"],
    "are not in": ["data.train_images=."], "has no instance": ["data.category_id=77"],
    "so none is a ROI": ["data.train_annotations=crowds.json"],
    "no instance in": ["data.min_roi_size=5000"],
    "has no tensor": ["extractor.layers=[/model.6/Conct_output_0]"],
    "a decoder needs": ["extractor.layers=[/model.7/Flatten_output_0]"],
    "does not fit the input": ["extractor.preprocess.image_size=[96,96]"],
    "not a usable ONNX": ["extractor.onnx_path=broken.onnx"],
    "environment variable": ["experiment=coco128_yolox", "data.train_annotations=${oc.env:NO_SUCH_PLACE}"],
    "must be given": ["data.val_images=???"], "no such configuration key": ["trainer.max_epoch=3"],
    "no such choice": ["model=unett"], "it must be": ["trainer.max_epochs=many"],
    "numbers, model.num_classes is": ["loss.class_weights=[1,2]"],
    "clicks are": ["clicks=random"],
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_the_line_is_printed(line, run_main, tiny_overrides, tmp_path):
    (provoked,) = [mistake for words, mistake in MISTAKES.items() if words in line]
    (tmp_path / "crowds.json").write_text(json.dumps(CROWDS))
    (tmp_path / "broken.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    code, stderr = run_main(roiseg.train, *tiny_overrides, *provoked)
    assert code == 2
    pattern = ".*".join(map(re.escape, line.split("…")))
    assert re.fullmatch(f"roiseg: error: {pattern}", stderr.strip()), stderr


def test_there_are_lines():
    assert len(LINES) == len(MISTAKES)
