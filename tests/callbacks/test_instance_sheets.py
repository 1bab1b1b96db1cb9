"""Which instances the sheets of the test show, and what they show of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from helpers import segmentation_mask
from helpers.image_decoder import TinyImageDecoder
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from tiny_run import one_thread, tiny_data, tiny_extractor, tiny_module, tiny_trainer

from roiseg.callbacks.instances import InstanceSheets, InstanceTable
from roiseg.data.tta import TTA
from roiseg.evaluation import ranking as ranking_module
from roiseg.evaluation.ranking import RankedInstance, Ranking
from roiseg.geometry.rle import decode
from roiseg.metrics.instance import InstanceRecord

pytestmark = pytest.mark.filterwarnings("ignore")


def prediction(number, iou):
    return RankedInstance(InstanceRecord(1, "a.jpg", number, 0, 0, 9, 9, 50, 0.0, iou, 0.5), 0, {})


def ious(ranking):
    return [kept.record.iou for kept in ranking.kept]


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), max_size=30), st.integers(1, 8), st.randoms())
def test_a_ranking_keeps_the_first_of_all_sorted_in_whatever_order_they_come(values, count, random):
    predictions = [prediction(number, iou) for number, iou in enumerate(values)]
    for sign in (1, -1):
        ranking = Ranking(sign, count)
        random.shuffle(predictions)
        for one in predictions:
            ranking.insert(one)
            assert len(ranking.kept) <= count
        expected = sorted(predictions, key=lambda p: (sign * p.record.iou, p.record.annotation_id))
        assert ranking.kept == expected[:count]


class Watched(InstanceSheets):
    """Remembers what it draws."""

    def _draw(self, trainer, name, kept):
        self.drawn = {**getattr(self, "drawn", {}), name: list(kept)}
        super()._draw(trainer, name, kept)


@pytest.fixture(scope="module", params=["roi", "image", "image, mirrored"])
def run(request, coco_set, onnx_file, tmp_path_factory):
    """(folder, callback, cases by sheet, records) of a test."""
    folder = tmp_path_factory.mktemp("extremes")
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    frame = request.param.split(",")[0]
    decoder = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), frame=frame)
    mirrored = "mirrored" in request.param
    data = tiny_data(coco_set, extractor, decoder, metric_size=(20, 12), tta=TTA(hflip=mirrored))
    module, callback, table = tiny_module(decoder), Watched(folder, count=4), InstanceTable(folder / "t.csv")
    sheets, draw = {}, ranking_module.instance_sheet
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ranking_module, "instance_sheet", lambda t, cells: sheets.update({t: cells}) or draw(t, cells)
        )
        tiny_trainer(folder, max_epochs=30, limit_val_batches=0).fit(module, datamodule=data)
        trainer = tiny_trainer(folder, [callback, table])
        for _ in range(2):
            trainer.test(module, datamodule=data, verbose=False)
    return folder, callback, sheets, table._records


def test_the_worst_and_the_best_are_shown_in_order(run):
    _, callback, sheets, records = run
    values = sorted(record.iou for record in records)
    assert len(values) == 10 and values[3] < values[-4]
    assert [p.record.iou for p in callback.drawn["worst"]] == values[:4]
    assert [p.record.iou for p in callback.drawn["best"]] == values[:-5:-1]
    assert [title.split()[0] for title in sheets] == ["worst", "best"]


def test_kept_masks_are_those_that_were_measured(run, coco_set):
    _, callback, _, _ = run
    content = coco_set.content()
    images = {image["id"]: image for image in content["images"]}
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    for kept in (*callback.drawn["worst"], *callback.drawn["best"]):
        annotation = annotations[kept.record.annotation_id]
        image = images[annotation["image_id"]]
        truth = segmentation_mask(annotation["segmentation"], image["height"], image["width"])
        encoded = coco_mask.encode(np.asfortranarray(truth))
        assert kept.record.iou == pytest.approx(coco_mask.iou([kept.mask], [encoded], [0])[0, 0], abs=1e-9)
        assert decode(kept.mask).shape == (image["height"], image["width"])


def test_cases_show_picture_annotations_and_prediction_around_the_roi(run, coco_set):
    _, callback, sheets, _ = run
    content = coco_set.content()
    images = {image["id"]: image for image in content["images"]}
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    for cases, kept in zip(sheets.values(), callback.drawn.values(), strict=True):
        for case, one in zip(cases, kept, strict=True):
            annotation = annotations[one.record.annotation_id]
            image = images[annotation["image_id"]]
            size = image["height"], image["width"]
            picture = cv2.imread(str(coco_set.images / image["file_name"]))[:, :, ::-1]
            x, y, width, height = annotation["bbox"]
            left, top = round(x - case.box[0]), round(y - case.box[1])
            assert max(0, x - 0.15 * width) - 1.001 < left <= max(0, x - 0.15 * width) + 0.001
            assert max(0, y - 0.15 * height) - 1.001 < top <= max(0, y - 0.15 * height) + 0.001
            right, bottom = left + case.image.shape[1], top + case.image.shape[0]
            assert -0.001 < right - min(size[1], x + 1.15 * width) < 1.001
            assert -0.001 < bottom - min(size[0], y + 1.15 * height) < 1.001
            part = np.s_[top : top + case.image.shape[0], left : left + case.image.shape[1]]
            np.testing.assert_array_equal(case.image, picture[part])
            np.testing.assert_allclose(
                case.box, [x - left, y - top, x - left + width, y - top + height], atol=1e-3
            )
            np.testing.assert_array_equal(
                case.truth, segmentation_mask(annotation["segmentation"], *size)[part]
            )
            np.testing.assert_array_equal(case.prediction, decode(one.mask)[part])
            others = [
                segmentation_mask(other["segmentation"], *size)[part]
                for other in content["annotations"]
                if other["image_id"] == image["id"] and other["id"] != annotation["id"]
                and other["category_id"] == 1 and not other["iscrowd"]
            ]  # fmt: skip
            assert case.others.sum() == sum(other.sum() for other in others)
            assert case.title == f"{image['file_name']} #{annotation['id']}"
            assert case.footer == f"IoU {one.record.iou:.2f}  side {np.sqrt(width * height):.0f} px"


def test_both_sheets_are_written(run):
    folder = run[0]
    for name in ("worst", "best"):
        assert cv2.imread(str(folder / f"test_{name}.png")).shape[1] == 4 * 306 + 6
