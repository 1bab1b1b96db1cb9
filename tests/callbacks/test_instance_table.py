"""The table of instances against annotations and masks drawn in full, by other means."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from helpers import segmentation_mask
from pycocotools import mask as coco_mask
from tiny_run import one_thread, tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer
from torch import distributed

from roiseg.callbacks.instances import InstanceTable, gather_from_all
from roiseg.evaluation.result_files import write_table
from roiseg.metrics.instance import InstanceRecord

pytestmark = pytest.mark.filterwarnings("ignore")

HEADER = "image_id,file_name,annotation_id,x1,y1,x2,y2,area,non_target_share,iou,boundary_iou"


@pytest.fixture(scope="module")
def run(coco_set, onnx_file, tmp_path_factory):
    """(path of the table, logged test metrics, module, data) of a decoder trained a little."""
    folder = tmp_path_factory.mktemp("table")
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    decoder = tiny_decoder(extractor)
    module, data = tiny_module(decoder), tiny_data(coco_set, extractor, decoder)
    with one_thread():
        tiny_trainer(folder, max_epochs=15, limit_val_batches=0).fit(module, datamodule=data)
        trainer = tiny_trainer(folder, [InstanceTable(folder / "new/instances.csv")])
        logged = [trainer.test(module, datamodule=data, verbose=False)[0] for _ in range(2)]
    assert logged[0] == logged[1]
    return folder / "new/instances.csv", logged[1], module.eval(), data


def rows_of(path):
    with open(path, newline="") as stream:
        rows = [
            {k: v if k == "file_name" else float(v) for k, v in r.items()} for r in csv.DictReader(stream)
        ]
    return rows


def paste(probability, box, size):
    """Stretch [h, w] over `box` on a canvas of `size`: one line at a time, linear between cell centres."""
    (h, w), (x1, y1, x2, y2) = probability.shape, box
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    columns, lines = x1 + (np.arange(w) + 0.5) / w * (x2 - x1), y1 + (np.arange(h) + 0.5) / h * (y2 - y1)
    wide = np.array([np.interp(x, columns, row) for row in probability])
    tall = np.array([np.interp(y, lines, column) for column in wide.T]).T
    return (tall >= 0.5) & ((y1 <= y) & (y < y2))[:, None] & (x1 <= x) & (x < x2)


def annotations_of(coco_set):
    """{id: (record, image record, mask)}."""
    content = coco_set.content()
    images = {image["id"]: image for image in content["images"]}
    found = {}
    for record in content["annotations"]:
        image = images[record["image_id"]]
        mask = segmentation_mask(record["segmentation"], image["height"], image["width"]) > 0
        found[record["id"]] = record, image, mask
    return found


def test_rows_are_the_eligible_annotations_in_order(run, coco_set):
    path, _, _, data = run
    rows, annotations = rows_of(path), annotations_of(coco_set)
    assert path.read_text().splitlines()[0] == HEADER
    expected = sorted(
        (record["image_id"], number)
        for number, (record, _, _) in annotations.items()
        if record["category_id"] == 1 and not record["iscrowd"] and min(record["bbox"][2:]) >= 16
    )
    assert [(row["image_id"], row["annotation_id"]) for row in rows] == expected
    assert len(rows) == data.dataset("val").num_rois == 10
    for row in rows:
        record, image, mask = annotations[row["annotation_id"]]
        x, y, width, height = record["bbox"]
        assert row["file_name"] == image["file_name"]
        assert [row[side] for side in ("x1", "y1", "x2", "y2")] == [
            pytest.approx(side, abs=6e-4) for side in (x, y, x + width, y + height)
        ]
        assert row["area"] == mask.sum()


def test_the_share_of_others_is_that_of_their_masks_in_the_box(run, coco_set):
    """Cells against pixels: near, not equal."""
    annotations = annotations_of(coco_set)
    shares = []
    for row in rows_of(run[0]):
        _, _, mask = annotations[row["annotation_id"]]
        people = [
            other
            for record, _, other in annotations.values()
            if record["image_id"] == row["image_id"] and record["category_id"] == 1 and not record["iscrowd"]
        ]
        others = np.logical_or.reduce(people) & ~mask
        x1, y1, x2, y2 = (round(row[side]) for side in ("x1", "y1", "x2", "y2"))
        shares.append(row["non_target_share"])
        assert row["non_target_share"] == pytest.approx(others[y1:y2, x1:x2].mean(), abs=0.04)
    assert min(shares) < 0.05 < 0.15 < max(shares)


def test_ious_are_those_of_full_masks(run, coco_set):
    path, _, module, data = run
    rows, annotations = rows_of(path), annotations_of(coco_set)
    probabilities = {}
    for batch in data.val_dataloader():
        ids = np.concatenate([sample.truth.annotation_ids for sample in batch.samples]).tolist()
        maps = module.target_probabilities(data.extract(batch)).double().numpy()
        probabilities.update(zip(ids, maps, strict=True))
    for row in rows:
        record, _, mask = annotations[row["annotation_id"]]
        x, y, width, height = record["bbox"]
        predicted = paste(probabilities[row["annotation_id"]], (x, y, x + width, y + height), mask.shape)
        a, b = (coco_mask.encode(np.asfortranarray(m, dtype=np.uint8)) for m in (predicted, mask))
        assert row["iou"] == pytest.approx(coco_mask.iou([a], [b], [0])[0, 0], abs=2e-3)  # an edge pixel
    assert len({row["iou"] for row in rows}) > 5


def test_logged_means_are_those_of_the_rows(run):
    rows, logged = rows_of(run[0]), run[1]
    crowded = [row["iou"] for row in rows if row["non_target_share"] > 0.1]
    assert 0 < len(crowded) < len(rows)
    assert logged["test/crowded_iou"] == pytest.approx(np.mean(crowded), abs=1e-6)
    assert logged["test/instance_iou"] == pytest.approx(np.mean([row["iou"] for row in rows]), abs=1e-6)
    boundary = np.mean([row["boundary_iou"] for row in rows])
    assert logged["test/boundary_iou"] == pytest.approx(boundary, abs=1e-6)


def record(image_id=1, annotation_id=1, file_name="a.jpg", iou=0.5):
    return InstanceRecord(image_id, file_name, annotation_id, 1.00001, 2, 3.5, 4, 9, 1 / 3, iou, 0.25)


def test_names_with_commas_and_accents_survive_and_numbers_are_exact(tmp_path):
    names = ['a, "b".jpg', "über/写真.jpg"]
    write_table(tmp_path / "t.csv", [record(file_name=name) for name in names])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file_name"] for row in rows] == names
    assert float(rows[0]["non_target_share"]) == 1 / 3
    assert rows[0]["x1"] == "1.0"


def test_a_table_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, [record()])
    before = path.read_bytes()
    with pytest.raises((TypeError, AttributeError)):
        write_table(path, [record(), None])
    assert path.read_bytes() == before
    assert list(tmp_path.glob("[!.]*")) == [path]


def _hold(rank, folder):
    store = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    held = gather_from_all(
        [record(image_id=rank, annotation_id=n) for n in range(3 * rank)]
    )  # the first has none
    write_table(folder / f"{rank}.csv", held)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_gather_what_each_holds_once(tmp_path):
    torch.multiprocessing.spawn(_hold, (tmp_path,), nprocs=2)
    tables = [rows_of(tmp_path / f"{rank}.csv") for rank in range(2)]
    assert tables[0] == tables[1]
    assert [row["annotation_id"] for row in tables[0]] == [0, 1, 2]


def test_alone_a_process_gathers_its_own():
    assert gather_from_all([1, 2]) == [1, 2]
