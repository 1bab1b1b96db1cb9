"""`python -m roiseg.predict`, in this process, on tiny checkpoints: images in, files out."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_errors import one_line
from tiny_run import fit, one_thread
from tiny_video import write_video

import roiseg.predict
from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.data.images import read_image
from roiseg.inference.checkpoint import load_model, newest_checkpoint
from roiseg.inference.predictor import Predictor
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.synthetic.dataset import synthetic_scene
from roiseg.synthetic.detector_training import letterbox_scene

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def checkpoint(coco_set, onnx_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    fit(coco_set, onnx_file, folder.parent, [EpochCheckpoint(folder, [64, 64])])
    return newest_checkpoint(folder)


@pytest.fixture
def run(run_main, checkpoint, tmp_path, capfd):
    """Run the command into tmp_path/out; returns (exit code, stderr)."""

    def start(*arguments, ckpt=checkpoint):
        chosen = [f"ckpt={ckpt}"] if ckpt else []
        return run_main(roiseg.predict, "output_dir=out", *chosen, *arguments)

    return start


@pytest.fixture
def table(coco_set, tmp_path):
    """The annotated persons of two images, and one of none, as CSV."""
    path = tmp_path / "boxes.csv"
    path.write_text("file,x1,y1,x2,y2\na.jpg,10.5,12,49,70\na.jpg,36,12,80,68\nb.jpg,10,8,50,88\n")
    return path


SHORT = [
    "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "test=false",
]  # fmt: skip


def results(folder):
    return json.loads((folder / "coco_results.json").read_text())


def test_a_folder_with_annotated_boxes_in_every_format(run, coco_set, checkpoint, tmp_path):
    code, said = run(f"source={coco_set.images}", f"boxes={coco_set.json}", "writers=[all]")
    assert (code, said) == (0, "")
    out = tmp_path / "out"
    names = ["a", "b", "c", "d", "e", "empty"]
    for folder, suffix in (
        ("yolo_seg", "txt"), ("labelme", "json"), ("labels", "png"), ("overlays", "jpg"), ("six_panel", "png"),
    ):  # fmt: skip
        assert sorted(p.name for p in (out / folder).iterdir()) == [f"{name}.{suffix}" for name in names]
    records = results(out)
    crowds_and_dogs = 2
    assert len(records) == len(coco_set.content()["annotations"]) - crowds_and_dogs
    assert len(list((out / "crops").glob("*.png"))) == len(records)
    predictor = Predictor.from_checkpoint(checkpoint)
    predictor.set_image(read_image(coco_set.images / "e.jpg"))
    of_e = [a for a in coco_set.content()["annotations"] if a["image_id"] == 5]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in of_e)]
    expected = predictor.predict(boxes)
    found = [record for record in records if record["image_id"] == 5]
    for index, record in enumerate(found):
        assert np.array_equal(coco_mask.decode(record["segmentation"]).astype(bool), expected.mask(index))
    assert not cv2.imread(str(out / "labels/empty.png"), cv2.IMREAD_UNCHANGED).any()
    assert (out / "yolo_seg/empty.txt").read_text() == ""


def test_ids_are_those_of_the_annotations_so_that_coco_evaluates(run, coco_set, tmp_path):
    assert run(f"source={coco_set.images}/*.jpg", f"boxes={coco_set.json}", "writers=[coco]")[0] == 0
    truth = COCO(str(coco_set.json))
    measure = COCOeval(truth, truth.loadRes(str(tmp_path / "out/coco_results.json")), "segm")
    measure.params.catIds = [1]
    measure.evaluate()
    measure.accumulate()
    measure.summarize()
    assert measure.stats[1] > 0  # AP at 0.5: two epochs on twelve persons find some


def test_one_image_and_a_table(run, coco_set, table, tmp_path):
    assert run(f"source={coco_set.images}/a.jpg", f"boxes={table}")[0] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == [
        "coco_images.json", "coco_results.json", "overlays",
    ]  # fmt: skip
    assert [record["score"] for record in results(tmp_path / "out")] == [1, 1]


def test_several_words_are_several_images(run, coco_set, table, tmp_path):
    assert run(coco_set.images / "b.jpg", coco_set.images / "a.jpg", f"boxes={table}")[0] == 0
    assert [p.name for p in sorted((tmp_path / "out/overlays").iterdir())] == ["a.jpg", "b.jpg"]
    assert [record["image_id"] for record in results(tmp_path / "out")] == [1, 1, 2]


def test_a_picture_that_the_boxes_do_not_know_has_nobody_and_is_counted(
    run, coco_set, table, tmp_path, capfd
):
    code, _ = run(f"source={coco_set.images}", f"boxes={table}", "writers=[labels]")
    assert code == 0
    assert not cv2.imread(str(tmp_path / "out/labels/c.png"), cv2.IMREAD_UNCHANGED).any()


def test_a_video_in_and_a_video_out(run, tmp_path):
    source = write_video(tmp_path / "clip.mp4", count=7, size=(64, 96), fps=10)
    rows = [f"clip_{number:06d},{number * 5},8,{number * 5 + 40},60" for number in (0, 1, 2, 3, 5)]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x1,y1,x2,y2", *rows]))
    code, _ = run(f"source={source}", "boxes=boxes.csv", "writers=[overlay,coco,crops]")
    assert code == 0
    video = cv2.VideoCapture(str(tmp_path / "out/clip_overlays.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 7
    assert frames[0].shape == (64, 96, 3)
    assert video.get(cv2.CAP_PROP_FPS) == 10
    assert [record["image_id"] for record in results(tmp_path / "out")] == [1, 2, 3, 4, 6]
    assert len(json.loads((tmp_path / "out/crops/crops.json").read_text())) == 5


def test_the_detectors_own_boxes(run_main, run_train, run, tmp_path):
    """The embedded detector finds drawn people; its boxes and features are of one run."""
    summary = run_train(
        tmp_path, f"extractor.onnx_path={ROOT / 'ext_extractor/tiny_person_256.onnx'}",
        "extractor.layers=[features_s4]", "extractor.preprocess.image_size=[256,256]", *SHORT,
    )  # fmt: skip
    (tmp_path / "pictures").mkdir()
    image, _, _ = letterbox_scene(synthetic_scene(0, "val", 1))
    cv2.imwrite(str(tmp_path / "pictures/people.png"), image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "pictures/nobody.png"), np.full((90, 120, 3), 128, np.uint8))
    code, said = run("source=pictures", "writers=[coco,labels]", ckpt=summary["best_checkpoint"])
    assert (code, said) == (0, "")
    records = results(tmp_path / "out")
    assert records
    assert {record["image_id"] for record in records} == {2}
    assert all(0.25 < record["score"] < 1 for record in records)
    code, _ = run("source=pictures", "min_score=0.99999", ckpt=summary["best_checkpoint"])
    assert code == 0
    assert results(tmp_path / "out-2") == []
    code, said = run(f"source={tmp_path}/pictures", "boxes=coco", ckpt=summary["best_checkpoint"])
    assert code == 2
    assert "names none of the images (nobody.png" in one_line(said)


def test_the_annotations_of_the_training(run, checkpoint, coco_set, table, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["config"]["data"] |= {
        "val_annotations": str(table),  # which does not know the image
        "train_annotations": str(coco_set.json),
    }
    torch.save(content, tmp_path / "x.pth")
    code, _ = run(f"source={coco_set.images}/d.jpg", "boxes=coco", ckpt="x.pth")
    assert code == 0
    assert len(results(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"category_id": "x"}, "invalid data.category_id, 'x'"),
        ({"category_id": None}, "invalid data.category_id, None"),
        ({"val_annotations": None, "train_annotations": None}, "does not name its annotations: give boxes="),
        ({"val_annotations": "${oc.env:HOME}"}, "is not trusted"),
    ],
)
def test_what_a_checkpoint_tells_of_its_data_is_not_believed_blindly(
    run, checkpoint, coco_set, tmp_path, data, words
):
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["config"]["data"] |= data
    torch.save(content, tmp_path / "x.pth")
    code, stderr = run(f"source={coco_set.images}/d.jpg", "boxes=coco", ckpt="x.pth")
    assert code == 2
    assert words in one_line(stderr)
    assert not (tmp_path / "out").exists()


def test_the_category_is_the_checkpoints_unless_another_is_given(run, checkpoint, coco_set, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["config"]["data"]["category_id"] = 18
    torch.save(content, tmp_path / "x.pth")
    boxes = f"boxes={coco_set.json}"
    for arguments, category in (([], 18), (["category_id=1"], 1)):
        code, stderr = run(
            f"source={coco_set.images}", boxes, *arguments, f"output_dir=out{category}", ckpt="x.pth"
        )
        assert code == 0, stderr
        assert {record["category_id"] for record in results(tmp_path / f"out{category}")} == {category}


def test_an_exported_file_gives_what_the_checkpoint_gives(
    run, checkpoint, coco_set, onnx_file, table, tmp_path
):
    model = load_model(checkpoint)
    export_model(model, tmp_path / "m.onnx", ExportOptions(False, False, 18), model.extractor(), [])
    arguments = [f"source={coco_set.images}/a.jpg", f"boxes={table}"]
    assert run(*arguments)[0] == 0
    assert run(*arguments, "onnx=m.onnx", f"onnx_path={onnx_file}", ckpt=None)[0] == 0
    for one, other in zip(results(tmp_path / "out"), results(tmp_path / "out-2"), strict=True):
        a, b = (coco_mask.decode(r["segmentation"]).astype(bool) for r in (one, other))
        assert (a & b).sum() > 0.8 * (a | b).sum()  # through the grid of the input, 64 x 64


def test_a_damaged_image_ends_the_run_or_is_skipped_and_counted(run, coco_set, tmp_path, capfd):
    shutil.copytree(coco_set.images, tmp_path / "pictures")
    damaged = tmp_path / "pictures/b.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    arguments = ["source=pictures", f"boxes={coco_set.json}"]
    code, said = run(*arguments)
    assert code == 2
    assert "b.jpg is damaged" in one_line(said)
    assert "on_error=skip" in one_line(said)
    assert not (tmp_path / "out/coco_results.json").exists()
    code, _ = run(*arguments, "on_error=skip")
    assert code == 0
    assert {record["image_id"] for record in results(tmp_path / "out-2")} == {1, 3, 4, 5}
    assert not (tmp_path / "out-2/overlays/b.jpg").exists()
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"nothing")
    code, said = run(*arguments, "on_error=skip")
    assert code == 2
    assert "no image could be read, the first of 6" in one_line(said)


def test_no_run_writes_over_another(run, coco_set, table, tmp_path):
    for _ in range(2):
        assert run(f"source={coco_set.images}/a.jpg", f"boxes={table}", "writers=[coco]")[0] == 0
    assert (tmp_path / "out/coco_results.json").read_text() == (
        tmp_path / "out-2/coco_results.json"
    ).read_text()


MISTAKES = {
    "no source": ([], ["source", "must be given"]),
    "absent source": (["source=nowhere"], ["nowhere", "not found"]),
    "no image in it": (["source=void"], ["void", "no image"]),
    "no model": (["source={images}", "ckpt=null"], ["ckpt=", "onnx="]),
    "two models": (["source={images}", "onnx=x.onnx"], ["ckpt=", "onnx="]),
    "absent checkpoint": (["source={images}", "ckpt=x.pth"], ["x.pth", "not found"]),
    "no adapter": (["source={images}"], ["postprocess=yolox", "boxes=FILE"]),
    "unknown adapter": (["source={images}", "postprocess=yolo99"], ["postprocess=yolo99", "yolo"]),
    "absent boxes": (["source={images}", "boxes=x.csv"], ["x.csv", "not found"]),
    "other boxes": (["source={images}/empty.jpg", "boxes={table}"], ["boxes.csv", "empty.jpg"]),
    "unknown writer": (["source={images}", "writers=[cocoo]"], ["cocoo", "nearest: coco"]),
    "no writer": (["source={images}", "writers=[]"], ["writers", "coco"]),
    "wrong writer option": (["source={images}", "writers.overlay.alpha=x"], ["writers.overlay.alpha", "'x'"]),
    "crops that shrink": (
        ["source={images}", "writers=[crops]", "writers.crops.ratio=0.5"], ["crops", "ratio", "0.5"],
    ),
    "policy": (["source={images}", "on_error=stop"], ["on_error", "'raise' or 'skip'", "stop"]),
    "threshold": (["source={images}", "threshold=50"], ["threshold", "less than or equal to 1", "50"]),
    "no threshold": (["source={images}", "threshold=0"], ["threshold", "greater than 0"]),
    "augmented file": (["source={images}", "ckpt=null", "onnx=x.onnx", "tta=hflip"], ["tta", "ckpt="]),
    "device of a file": (["source={images}", "ckpt=null", "onnx=x.onnx", "device=cpu"], ["device", "onnx=..."]),
    "unknown key": (["source={images}", "thresold=0.5"], ["thresold", "threshold"]),
    "output in a file": (["source={images}", "boxes={table}", "output_dir=boxes.csv"], ["boxes.csv", "is a file"]),
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(run, coco_set, table, tmp_path, arguments):
    (tmp_path / "void").mkdir()
    given, words = arguments
    code, said = run(*(one.format(images=coco_set.images, table=table) for one in given))
    assert code == 2
    assert all(word in one_line(said) for word in words), said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["boxes.csv", "void"]


@pytest.mark.realdata
def test_real_people_are_found_with_their_own_boxes_and_given_ones(run_main, run_train, realdata, tmp_path):
    """On real images, with a real detector: every format, boxes of the detector and of the annotations."""
    folder = realdata / "coco128_person"
    kind = "instances_val2017_person_only_no_crowd.json"
    trained = run_train(
        tmp_path / "run", *SHORT, f"extractor.onnx_path={realdata / 'yolox_nano.onnx'}",
        "extractor.layers=['952']", "extractor.preprocess.image_size=[416,416]",
        "extractor.preprocess.align=topleft", "extractor.preprocess.divisor=1", "postprocess@extractor.postprocess=yolox",
    )  # fmt: skip
    arguments = [f"source={folder}/images/val2017", f"ckpt={trained['best_checkpoint']}", "writers=[all]"]
    given = [f"boxes={folder}/annotations/{kind}", "output_dir=given"]
    assert run_main(roiseg.predict, *arguments, *given) == (0, "")
    assert run_main(roiseg.predict, *arguments, "output_dir=own", "writers=[coco,six_panel]") == (0, "")
    truth = json.loads((folder / "annotations" / kind).read_text())
    boxes = {(r["image_id"], *r["bbox"]) for r in results(tmp_path / "given")}
    assert len(boxes) == len(truth["annotations"])
    assert {r["image_id"] for r in results(tmp_path / "given")} == {
        a["image_id"] for a in truth["annotations"]
    }
    assert len(list((tmp_path / "own/six_panel").iterdir())) == len(truth["images"])
    reader = COCO(str(folder / "annotations" / kind))
    measure = COCOeval(reader, reader.loadRes(str(tmp_path / "own/coco_results.json")), "bbox")
    measure.evaluate()
    measure.accumulate()
    measure.summarize()
    assert measure.stats[1] > 0.4  # the boxes of YOLOX-Nano, AP at 0.5
