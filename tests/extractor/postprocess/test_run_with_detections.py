"""Features and boxes of one run of the detector."""

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers import run_onnx
from slow_heads import assert_found, choose, yolox_boxes
from wholebody import COLUMNS, HEAD, LAYER, SIZE, red_picture, wholebody_file

from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.rows import Rows
from roiseg.extractor.postprocess.yolo import Yolo, Yolox
from roiseg.extractor.preprocess import Preprocess


def opened(path, detector):
    return OnnxExtractor(str(path), [LAYER], Preprocess(SIZE), threads=1, postprocess=detector)


@pytest.mark.parametrize("batch", [1, "B"])
def test_finished_rows_of_the_users_shapes(tmp_path, batch):
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


UNFIT = {
    "no such tensor": (
        Rows(COLUMNS, output="batchno_classid_score"),
        rf"output: .*m\.onnx has no tensor .*{HEAD}",
    ),
    "no output fits": (Yolo(), rf"featext \[1, 4, 8, 12\], {HEAD} \[\?, 7\]"),
    "another shape": (Yolo(output=HEAD), r"extractor\.postprocess: the detector's output is \[96, 7\]"),
    "no postprocessor": (None, r"extractor\.postprocess is not set.*postprocess=yolox"),
}


@pytest.mark.parametrize(("postprocess", "words"), UNFIT.values(), ids=UNFIT)
def test_an_output_that_does_not_fit_is_told(tmp_path, postprocess, words):
    path = wholebody_file(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=words) as caught:
        opened(path, postprocess).run_with_detections(torch.ones(1, 3, *SIZE))
    assert "\n" not in str(caught.value)


@pytest.mark.realdata
def test_a_real_head_is_decoded_as_slow_loops_do(realdata):
    file, size = realdata / "yolox_nano.onnx", (416, 416)
    preprocess = Preprocess(size, "topleft", color="bgr", divisor=1)
    extractor = OnnxExtractor(str(file), ["952"], preprocess, threads=1, postprocess=Yolox())
    for path in sorted((realdata / "coco128_person/images/val2017").glob("*.jpg"))[:2]:
        image = np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])
        fitted = preprocess.letterbox.apply(image, preprocess.letterbox.fit(*image.shape[:2]))
        inputs = preprocess(torch.from_numpy(fitted)[None])
        features, (found,) = extractor.run_with_detections(inputs)
        raw, layer = run_onnx(file, {"images": inputs.numpy()}, ["output", "952"])
        assert len(found) > 0
        slow = yolox_boxes(raw, size, (8, 16, 32), [0])
        assert_found(found, choose(slow, size, 0.25, 0.45, 100), atol=1e-2)
        np.testing.assert_allclose(features[0].numpy(), layer, atol=1e-3, rtol=1e-3)
