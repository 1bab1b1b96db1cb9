"""Features and boxes of one run of the detector."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers import ROOT, run_onnx
from slow_heads import choose, yolox_boxes
from wholebody import COLUMNS, HEAD, LAYER, SIZE, red_picture, wholebody_file

from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.rows import Rows
from roiseg.extractor.postprocess.yolo import Yolo, Yolox
from roiseg.extractor.preprocess import Preprocess
from roiseg.geometry.boxes import iou
from roiseg.synthetic.dataset import synthetic_scene
from tools.tiny_detector.network import person_boxes
from tools.tiny_detector.training import letterbox_scene

TINY = ROOT / "ext_extractor" / "tiny_person_256.onnx"


def opened(path, detector, layers=(LAYER,), **preprocess):
    return OnnxExtractor(
        str(path), list(layers), Preprocess(SIZE, **preprocess), threads=1, postprocess=detector
    )


@pytest.mark.parametrize("batch", [1, "B"])
def test_finished_rows_of_the_users_shapes(tmp_path, batch):
    """The rows are no first output, their number differs from image to image; none is fine."""
    extractor = opened(wholebody_file(tmp_path / "m.onnx", batch), Rows(COLUMNS))
    images = torch.cat([red_picture((1, 2), (7, 11)), red_picture(), red_picture((0, 0))])
    tensor = extractor.preprocess(images)
    features, found = extractor.run_with_detections(tensor)
    assert [len(f) for f in found] == [2, 0, 1]
    assert sorted(found[0].boxes.tolist()) == [[16, 8, 24, 16], [88, 56, 96, 64]]
    assert found[2].boxes.tolist() == [[0, 0, 8, 8]]
    np.testing.assert_allclose(found[0].scores, 1, atol=1e-6)
    for got, want in zip(features, extractor.run(tensor), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_the_head_is_computed_only_where_it_is_asked_for(tmp_path):
    path = wholebody_file(tmp_path / "m.onnx")
    extractor = opened(path, Rows(COLUMNS))
    extractor(red_picture((1, 1)))
    assert [output.name for output in extractor.session.get_outputs()] == [LAYER]
    assert "_whole" not in vars(extractor)
    assert opened(path, None).identity == extractor.identity


def test_an_inner_tensor_can_be_the_head(tmp_path):
    path = wholebody_file(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.graph.output[1]
    onnx.save(model, path)
    _, (found,) = opened(path, Rows(COLUMNS, output=HEAD)).run_with_detections(torch.ones(1, 3, *SIZE))
    assert len(found) == 96


@pytest.mark.parametrize(
    ("postprocess", "words"),
    [
        (
            Rows(COLUMNS, output="batchno_classid_score"),
            rf"extractor\.postprocess\.output: .*m\.onnx has no tensor .*{HEAD}",
        ),
        (Yolo(), rf"featext \[1, 4, 8, 12\], {HEAD} \[\?, 7\]"),
        (Yolo(output=HEAD), r"extractor\.postprocess: the detector's output is \[96, 7\]"),
        (None, r"extractor\.postprocess is not set.*postprocess=yolox"),
    ],
    ids=["no such tensor", "no output fits", "another shape", "no postprocessor"],
)
def test_an_output_that_does_not_fit_is_told(tmp_path, postprocess, words):
    path = wholebody_file(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=words) as caught:
        opened(path, postprocess).run_with_detections(torch.ones(1, 3, *SIZE))
    assert "\n" not in str(caught.value)


def test_the_tiny_detector_finds_drawn_people():
    extractor = OnnxExtractor(
        str(TINY), ["features_s4"], Preprocess((256, 256)), threads=1, postprocess=Yolox([8])
    )
    hits = persons = found = 0
    for index in range(10):
        image, instances, _ = letterbox_scene(synthetic_scene(0, "val", index))
        truth = person_boxes(torch.from_numpy(instances)[None])[0]
        truth = truth[~truth[:, 0].isnan()].numpy()
        inputs = extractor.preprocess(torch.from_numpy(image)[None])
        _, (seen,) = extractor.run_with_detections(inputs)
        hits += (iou(truth, seen.boxes).max(axis=1, initial=0) > 0.5).sum()
        persons, found = persons + len(truth), found + len(seen)
    assert hits >= 0.85 * persons
    assert found <= 1.5 * persons


@pytest.fixture(scope="module")
def yolox_nano(realdata):
    preprocess = Preprocess((416, 416), "topleft", color="bgr", divisor=1)
    return OnnxExtractor(
        str(realdata / "yolox_nano.onnx"), ["952"], preprocess, threads=1, postprocess=Yolox()
    )


def validation_pictures(realdata):
    """(RGB image, its annotated boxes [N, 4] in original pixels) of every validation image."""
    folder = realdata / "coco128_person"
    content = json.loads((folder / "annotations" / "instances_val2017_person_only_no_crowd.json").read_text())
    for image in content["images"]:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        picture = cv2.imread(str(folder / "images" / "val2017" / image["file_name"]))
        corners = np.float32([(x, y, x + w, y + h) for x, y, w, h in boxes]).reshape(-1, 4)
        yield np.ascontiguousarray(picture[:, :, ::-1]), corners


def as_input(extractor, picture):
    letterbox = extractor.preprocess.letterbox
    transform = letterbox.fit(*picture.shape[:2])
    return extractor.preprocess(torch.from_numpy(letterbox.apply(picture, transform))[None]), transform


@pytest.mark.realdata
def test_a_real_detector_finds_the_annotated_people(realdata, yolox_nano):
    hits = large_hits = persons = large = false = 0
    for picture, truth in validation_pictures(realdata):
        inputs, transform = as_input(yolox_nano, picture)
        _, (found,) = yolox_nano.run_with_detections(inputs)
        overlap = iou(truth, transform.inverse().boxes(found.boxes))
        hit = overlap.max(axis=1, initial=0) > 0.5
        is_large = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1]) > 48**2
        hits, persons = hits + hit.sum(), persons + len(truth)
        large_hits, large = large_hits + hit[is_large].sum(), large + is_large.sum()
        false += (overlap.max(axis=0, initial=0) < 0.3).sum()
    assert hits >= 0.5 * persons  # many are tiny: a network of a million parameters at 416x416
    assert large_hits >= 0.9 * large
    assert false <= 10


@pytest.mark.realdata
def test_a_real_head_is_decoded_as_slow_loops_do(realdata, yolox_nano):
    for picture, _ in list(validation_pictures(realdata))[:2]:
        inputs, _ = as_input(yolox_nano, picture)
        features, (found,) = yolox_nano.run_with_detections(inputs)
        raw, layer = run_onnx(realdata / "yolox_nano.onnx", {"images": inputs.numpy()}, ["output", "952"])
        wanted = choose(yolox_boxes(raw, (416, 416), (8, 16, 32), [0]), (416, 416), 0.25, 0.45, 100)
        assert 0 < len(found) == len(wanted)
        np.testing.assert_allclose(found.boxes, [box for box, _, _ in wanted], atol=1e-2)
        np.testing.assert_allclose(found.scores, [score for _, score, _ in wanted], atol=1e-4)
        np.testing.assert_allclose(features[0].numpy(), layer, atol=1e-3, rtol=1e-3)
