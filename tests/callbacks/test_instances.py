"""The table of instances, and the sheets of the worst and the best, against annotations drawn by other means."""

import csv

import cv2
import numpy as np
import pytest
import torch
from helpers import segmentation_mask
from helpers.image_decoder import TinyImageDecoder
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from tiny_run import tiny_data, tiny_extractor, tiny_module, tiny_trainer

from roiseg.callbacks.instances import InstanceSheets, InstanceTable
from roiseg.data.tta import TTA
from roiseg.evaluation import ranking as ranking_module
from roiseg.evaluation.evaluator import write_table
from roiseg.evaluation.ranking import RankedInstance, Ranking
from roiseg.geometry.rle import decode
from roiseg.metrics.instance import InstanceRecord

pytestmark = pytest.mark.filterwarnings("ignore")

HEADER = "image_id,file_name,annotation_id,x1,y1,x2,y2,area,non_target_share,iou,boundary_iou,mask_score"


class Watched(InstanceSheets):
    """Remembers what it draws."""

    def _draw(self, trainer, name, kept):
        self.drawn = {**getattr(self, "drawn", {}), name: list(kept)}
        super()._draw(trainer, name, kept)


@pytest.fixture(scope="module", params=["roi", "image, mirrored"])
def run(request, coco_set, onnx_file, tmp_path_factory):
    """(folder with `new/instances.csv`, sheets callback, cases by sheet, logged metrics) of a test."""
    folder = tmp_path_factory.mktemp("instances")
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    frame, *mirrored = request.param.split(", ")
    decoder = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), frame=frame)
    data = tiny_data(coco_set, extractor, decoder, metric_size=(20, 12), tta=TTA(hflip=bool(mirrored)))
    module, callback = tiny_module(decoder), Watched(folder, count=5)
    sheets, draw = {}, ranking_module.instance_sheet
    with pytest.MonkeyPatch.context() as patch:
        kept = lambda title, cells: sheets.update({title: cells}) or draw(title, cells)  # noqa: E731
        patch.setattr(ranking_module, "instance_sheet", kept)
        tiny_trainer(folder, max_epochs=15, limit_val_batches=0).fit(module, datamodule=data)
        trainer = tiny_trainer(folder, [callback, InstanceTable(folder / "new/instances.csv")])
        logged = [trainer.test(module, datamodule=data, verbose=False)[0] for _ in range(2)]
    assert logged[0] == logged[1]
    return folder, callback, sheets, logged[0]


@pytest.fixture(scope="module")
def annotations(coco_set):
    """{id: (record, image record, mask)}."""
    content = coco_set.content()
    images = {image["id"]: image for image in content["images"]}
    found = {}
    for record in content["annotations"]:
        image = images[record["image_id"]]
        mask = segmentation_mask(record["segmentation"], image["height"], image["width"]) > 0
        found[record["id"]] = record, image, mask
    return found


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        return [{k: v if k == "file_name" else float(v) for k, v in row.items()} for row in rows]


def test_rows_are_the_eligible_annotations_in_order(run, annotations):
    path = run[0] / "new/instances.csv"
    rows = rows_of(path)
    assert path.read_text().splitlines()[0] == HEADER
    expected = sorted(
        (record["image_id"], number)
        for number, (record, _, _) in annotations.items()
        if record["category_id"] == 1 and not record["iscrowd"] and min(record["bbox"][2:]) >= 16
    )
    assert [(row["image_id"], row["annotation_id"]) for row in rows] == expected
    assert len(rows) == 10
    for row in rows:
        record, image, mask = annotations[row["annotation_id"]]
        x, y, width, height = record["bbox"]
        assert row["file_name"] == image["file_name"]
        box = [row[side] for side in ("x1", "y1", "x2", "y2")]
        assert box == pytest.approx([x, y, x + width, y + height], abs=6e-4)
        assert row["area"] == mask.sum()


def test_logged_means_and_the_order_of_the_sheets_are_those_of_the_rows(run):
    rows, logged = rows_of(run[0] / "new/instances.csv"), run[3]
    crowded = [row["iou"] for row in rows if row["non_target_share"] > 0.1]
    assert 0 < len(crowded) < len(rows)
    assert logged["test/crowded_iou"] == pytest.approx(np.mean(crowded), abs=1e-6)
    assert logged["test/instance_iou"] == pytest.approx(np.mean([row["iou"] for row in rows]), abs=1e-6)
    boundary = np.mean([row["boundary_iou"] for row in rows])
    assert logged["test/boundary_iou"] == pytest.approx(boundary, abs=1e-6)
    values, (folder, callback, sheets, _) = sorted(row["iou"] for row in rows), run
    assert [p.record.iou for p in callback.drawn["worst"]] == values[:5]
    assert [p.record.iou for p in callback.drawn["best"]] == values[:-6:-1]
    assert [title.split()[0] for title in sheets] == ["worst", "best"]
    for name in ("worst", "best"):
        assert cv2.imread(str(folder / f"test_{name}.png")).shape[1] > 4 * 306


def test_kept_masks_are_those_that_were_measured(run, annotations):
    for kept in (*run[1].drawn["worst"], *run[1].drawn["best"]):
        truth = annotations[kept.record.annotation_id][2]
        encoded = coco_mask.encode(np.asfortranarray(truth, dtype=np.uint8))
        assert kept.record.iou == pytest.approx(coco_mask.iou([kept.mask], [encoded], [0])[0, 0], abs=1e-9)
        assert decode(kept.mask).shape == truth.shape


def test_cases_show_picture_annotations_and_prediction_around_the_roi(run, coco_set, annotations):
    _, callback, sheets, _ = run
    for cases, kept in zip(sheets.values(), callback.drawn.values(), strict=True):
        for case, one in zip(cases, kept, strict=True):
            annotation, image, mask = annotations[one.record.annotation_id]
            picture = cv2.imread(str(coco_set.images / image["file_name"]))[:, :, ::-1]
            x, y, width, height = annotation["bbox"]
            left, top = round(x - case.box[0]), round(y - case.box[1])
            right, bottom = left + case.image.shape[1], top + case.image.shape[0]
            for low, high, start, side, end in (
                (left, right, x, width, mask.shape[1]), (top, bottom, y, height, mask.shape[0]),
            ):  # fmt: skip
                assert -1.001 < low - max(0, start - 0.15 * side) <= 0.001
                assert -0.001 < high - min(end, start + 1.15 * side) < 1.001
            part = np.s_[top:bottom, left:right]
            np.testing.assert_array_equal(case.image, picture[part])
            box = [x - left, y - top, x - left + width, y - top + height]
            np.testing.assert_allclose(case.box, box, atol=1e-3)
            np.testing.assert_array_equal(case.truth, mask[part])
            np.testing.assert_array_equal(case.prediction, decode(one.mask)[part])
            others = [
                its_mask[part]
                for other, _, its_mask in annotations.values()
                if other["image_id"] == image["id"] and other["id"] != annotation["id"]
                and other["category_id"] == 1 and not other["iscrowd"]
            ]  # fmt: skip
            assert case.others.sum() == sum(other.sum() for other in others)
            assert case.title == f"{image['file_name']} #{annotation['id']}"
            assert case.footer == f"IoU {one.record.iou:.2f}  side {np.sqrt(width * height):.0f} px"


def record(image_id=1, annotation_id=1, file_name="a.jpg", iou=0.5):
    return InstanceRecord(image_id, file_name, annotation_id, 1.00001, 2, 3.5, 4, 9, 1 / 3, iou, 0.25, 0.5)


def test_names_with_commas_and_accents_survive_and_numbers_are_exact(tmp_path):
    names = ['a, "b".jpg', "über/写真.jpg"]
    write_table(tmp_path / "t.csv", [record(file_name=name) for name in names])
    rows = rows_of(tmp_path / "t.csv")
    assert [row["file_name"] for row in rows] == names
    assert (rows[0]["non_target_share"], rows[0]["x1"]) == (1 / 3, 1.0)


def prediction(number, iou):
    return RankedInstance(record(annotation_id=number, iou=iou), 0, {})


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), max_size=30), st.integers(0, 8), st.randoms())
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
