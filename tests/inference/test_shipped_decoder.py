"""The decoder for photographs that ships with roiseg, and the tool that reduced its checkpoint."""

import json

import numpy as np
import pytest
import torch
from helpers import segmentation_mask

from roiseg.common.package_files import package_file
from roiseg.data.images import read_image
from roiseg.inference.checkpoint import load_model
from roiseg.inference.predictor import Predictor
from tools import small_checkpoint

FILE = package_file("ext_extractor/yolox_nano_person.pth")


def test_it_opens_with_the_detector_beside_it_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    predictor = Predictor.from_checkpoint(FILE.name)
    assert predictor.model.path == FILE
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    assert predictor.predict([[20, 30, 120, 260]]).masks().shape == (1, 300, 200)
    assert predictor.predict().scores.max(initial=0) <= 1  # the detector's boxes: of noise, probably none


def test_reduced_checkpoint_is_the_same_model_without_paths(checkpoint, onnx_file, monkeypatch, tmp_path):
    small = tmp_path / "small.pth"
    monkeypatch.setattr("sys.argv", ["small_checkpoint", str(checkpoint), str(small)])
    small_checkpoint.main()
    before, after = load_model(checkpoint), load_model(small)
    for name, weight in before.decoder.state_dict().items():
        torch.testing.assert_close(after.decoder.state_dict()[name], weight.half().float())
    assert (after.epoch, after.validation, after.decision) == (
        before.epoch,
        before.validation,
        before.decision,
    )
    assert str(onnx_file.parent).encode() not in small.read_bytes()
    assert small.stat().st_size < checkpoint.stat().st_size / 2


@pytest.mark.realdata
def test_masks_of_photographs_that_it_has_not_seen(realdata):
    folder = realdata / "coco128_person"
    content = json.loads((folder / "annotations/instances_val2017_person_only_no_crowd.json").read_text())
    predictor, ious = Predictor.from_checkpoint(FILE), []
    for image in content["images"]:
        records = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        records = [record for record in records if min(record["bbox"][2:]) >= 16]
        predictor.set_image(read_image(folder / "images/val2017" / image["file_name"]))
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (r["bbox"] for r in records)]
        masks = predictor.predict(np.reshape(boxes, (-1, 4))).masks()
        for mask, record in zip(masks, records, strict=True):
            truth = segmentation_mask(record["segmentation"], *mask.shape) > 0
            ious.append((mask & truth).sum() / (mask | truth).sum())
    assert len(ious) == 35
    assert np.mean(ious) > 0.66
