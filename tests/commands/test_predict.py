"""`python -m roiseg.predict`, in this process, on tiny checkpoints: images in, files out."""

import itertools
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.commands import changed_checkpoint
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_video import write_video

import roiseg.doctor
import roiseg.predict
import roiseg.train
from roiseg.data.images import read_image
from roiseg.inference.predictor import Predictor
from roiseg.synthetic.dataset import synthetic_scene
from tools.tiny_detector.training import letterbox_scene

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("single_thread")]


@pytest.fixture
def run(run_main, checkpoint):
    """Run the command into tmp_path/out."""

    def start(*arguments, ckpt=checkpoint):
        chosen = [f"ckpt={ckpt}"] if ckpt else []
        code, stderr = run_main(roiseg.predict, "output_dir=out", *chosen, *arguments)
        assert (code, stderr) == (0, "")

    return start


@pytest.fixture
def table(tmp_path):
    """The annotated persons of two images as CSV."""
    path = tmp_path / "boxes.csv"
    path.write_text("file,x1,y1,x2,y2\na.jpg,10.5,12,49,70\na.jpg,36,12,80,68\nb.jpg,10,8,50,88\n")
    return path


def results(folder):
    return json.loads((folder / "coco_results.json").read_text())


def test_a_folder_with_annotated_boxes_in_every_format(run, coco_set, checkpoint, tmp_path):
    run(f"source={coco_set.images}", f"boxes={coco_set.json}", "writers=[all]")
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

    truth = COCO(str(coco_set.json))  # ids are those of the annotations
    measure = COCOeval(truth, truth.loadRes(str(out / "coco_results.json")), "segm")
    measure.params.catIds = [1]
    measure.evaluate()
    measure.accumulate()
    measure.summarize()
    assert measure.stats[1] > 0  # AP at 0.5: two epochs on twelve persons find some


def test_one_image_and_a_table(run, coco_set, table, tmp_path):
    for _ in range(2):  # no run writes over another
        run(f"source={coco_set.images}/a.jpg", f"boxes={table}")
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == ["coco_annotations.json", "coco_images.json", "coco_results.json", "overlays"]
    assert [record["score"] for record in results(tmp_path / "out")] == [1, 1]
    assert results(tmp_path / "out") == results(tmp_path / "out-2")


def test_predictions_are_trained_on(run, run_train, run_main, refused, coco_set, tiny_overrides, tmp_path):
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for path in coco_set.images.glob("*.jpg"):
        cv2.imwrite(str(folder / path.name), cv2.imread(str(path))[:, ::-1])
    run(f"source={folder}", f"boxes={coco_set.json}", "writers=[coco]")
    written = tmp_path / "out/coco_annotations.json"
    masks = len(json.loads(written.read_text())["annotations"])
    assert masks > 3
    extra = [f"data.extra_annotations={written}", f"data.extra_images={folder}"]
    plain, more = (
        run_train(tmp_path / name, "trainer.max_epochs=1", "test=false", *options)["data"]
        for name, options in (("plain", []), ("more", extra))
    )
    assert plain["train_images"] < more["train_images"]
    assert plain["train_rois"] < more["train_rois"] <= plain["train_rois"] + masks
    assert plain["val_rois"] == more["val_rois"]
    wrong = [*tiny_overrides, *extra, "data.extra_images=nowhere"]
    refused(roiseg.train, wrong, "nowhere")
    assert run_main(roiseg.doctor, *wrong)[0] == 2
    assert "nowhere" in run_main.printed


def test_several_words_are_several_images_and_one_without_boxes_has_nobody(run, coco_set, table, tmp_path):
    names = [coco_set.images / f"{name}.jpg" for name in "bac"]
    run(*names, f"boxes={table}", "writers=[overlay,coco,labels]")
    assert sorted(p.name for p in (tmp_path / "out/overlays").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [record["image_id"] for record in results(tmp_path / "out")] == [1, 1, 2]
    assert not cv2.imread(str(tmp_path / "out/labels/c.png"), cv2.IMREAD_UNCHANGED).any()


def test_a_video_in_and_a_video_out(run, tmp_path):
    source = write_video(tmp_path / "clip.mp4", count=7, size=(64, 96), fps=10)
    rows = [f"clip_{number:06d},{number * 5},8,{number * 5 + 40},60" for number in (0, 1, 2, 3, 5)]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x1,y1,x2,y2", *rows]))
    run(f"source={source}", "boxes=boxes.csv", "writers=[overlay,coco,crops]")
    video = cv2.VideoCapture(str(tmp_path / "out/clip_overlays.mp4"))
    frames = list(itertools.takewhile(lambda read: read[0], iter(video.read, None)))
    assert [frame.shape for _, frame in frames] == [(64, 96, 3)] * 7
    assert video.get(cv2.CAP_PROP_FPS) == 10
    assert [record["image_id"] for record in results(tmp_path / "out")] == [1, 2, 3, 4, 6]
    assert len(json.loads((tmp_path / "out/crops/crops.json").read_text())) == 5


def test_the_detectors_own_boxes(refused, run_train, run, tmp_path):
    """The embedded detector finds drawn people; its boxes and features are of one run."""
    trained = run_train(
        tmp_path, f"extractor.onnx_path={ROOT / 'ext_extractor/tiny_person_256.onnx'}",
        "extractor.layers=[features_s4]", "extractor.preprocess.image_size=[256,256]", "trainer.max_epochs=1",
        "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "test=false",
    )["best_checkpoint"]  # fmt: skip
    (tmp_path / "pictures").mkdir()
    image, _, _ = letterbox_scene(synthetic_scene(0, "val", 1))
    cv2.imwrite(str(tmp_path / "pictures/people.png"), image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "pictures/nobody.png"), np.full((90, 120, 3), 128, np.uint8))
    run("source=pictures", "writers=[coco,labels]", ckpt=trained)
    records = results(tmp_path / "out")
    assert records
    assert {record["image_id"] for record in records} == {2}
    assert all(0.25 < record["score"] < 1 for record in records)
    run("source=pictures", "min_score=0.99999", ckpt=trained)
    assert results(tmp_path / "out-2") == []
    coco = [f"ckpt={trained}", f"source={tmp_path}/pictures", "boxes=coco", "output_dir=out"]
    refused(roiseg.predict, coco, "names none of the images (nobody.png")


def test_the_annotations_of_the_training(run, checkpoint, coco_set, table, tmp_path):
    data = {"val_annotations": str(table), "train_annotations": str(coco_set.json)}  # one knows the image
    changed_checkpoint(checkpoint, tmp_path / "x.pth", **data)
    run(f"source={coco_set.images}/d.jpg", "boxes=coco", ckpt="x.pth")
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
def test_invalid_data_of_a_checkpoint_are_refused(refused, checkpoint, coco_set, tmp_path, data, words):
    path = changed_checkpoint(checkpoint, tmp_path / "x.pth", **data)
    given = [f"ckpt={path}", f"source={coco_set.images}/d.jpg", "boxes=coco", "output_dir=out"]
    refused(roiseg.predict, given, words)
    assert not (tmp_path / "out").exists()


def test_the_category_is_the_checkpoints_unless_another_is_given(run, checkpoint, coco_set, tmp_path):
    changed_checkpoint(checkpoint, tmp_path / "x.pth", category_id=18)
    given = [f"source={coco_set.images}", f"boxes={coco_set.json}", "writers=[coco]"]
    for arguments, category in (([], 18), (["category_id=1"], 1)):
        run(*given, *arguments, f"output_dir=out{category}", ckpt="x.pth")
        assert {record["category_id"] for record in results(tmp_path / f"out{category}")} == {category}


def test_an_exported_file_gives_what_the_checkpoint_gives(run, finished, coco_set, table, tmp_path):
    arguments = [f"source={coco_set.images}/a.jpg", f"boxes={table}"]
    run(*arguments)
    run(*arguments, f"onnx={finished.exported()}", f"onnx_path={finished.detector}", ckpt=None)
    for one, other in zip(results(tmp_path / "out"), results(tmp_path / "out-2"), strict=True):
        a, b = (coco_mask.decode(r["segmentation"]).astype(bool) for r in (one, other))
        assert (a & b).sum() > 0.8 * (a | b).sum()  # through the grid of the input, 64 x 64


def test_a_damaged_image_ends_the_run_or_is_skipped_and_counted(run, refused, checkpoint, coco_set, tmp_path):
    shutil.copytree(coco_set.images, tmp_path / "pictures")
    damaged = tmp_path / "pictures/b.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    arguments = ["source=pictures", f"boxes={coco_set.json}"]
    given = [*arguments, f"ckpt={checkpoint}", "output_dir=out"]
    refused(roiseg.predict, given, "b.jpg is damaged", "on_error=skip")
    assert not (tmp_path / "out/coco_results.json").exists()
    run(*arguments, "on_error=skip")
    assert {record["image_id"] for record in results(tmp_path / "out-2")} == {1, 3, 4, 5}
    assert not (tmp_path / "out-2/overlays/b.jpg").exists()
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"nothing")
    refused(roiseg.predict, [*given, "on_error=skip"], "no image could be read, the first of 6")


MISTAKES = {
    "no source": ([], ["source", "must be given"]),
    "no image in it": (["source=void"], ["void", "no image"]),
    "no model": (["source={images}", "ckpt=null"], ["ckpt=", "onnx="]),
    "two models": (["source={images}", "onnx=x.onnx"], ["ckpt=", "onnx="]),
    "no adapter": (["source={images}", "ckpt={plain}"], ["postprocess=yolox", "boxes=FILE"]),
    "adapter of other detectors": (["source={images}"], ["extractor.postprocess", "output [1, 5]"]),
    "unknown adapter": (["source={images}", "postprocess=yolo99"], ["postprocess=yolo99", "yolo"]),
    "other boxes": (["source={images}/empty.jpg", "boxes={table}"], ["boxes.csv", "empty.jpg"]),
    "unknown writer": (["source={images}", "writers=[cocoo]"], ["cocoo", "nearest: coco"]),
    "no writer": (["source={images}", "writers=[]"], ["writers", "coco"]),
    "wrong writer option": (["source={images}", "writers.overlay.alpha=x"], ["writers.overlay.alpha", "'x'"]),
    "crops that shrink": (
        ["source={images}", "writers=[crops]", "writers.crops.ratio=0.5"], ["crops", "ratio", "0.5"],
    ),
    "augmented file": (["source={images}", "ckpt=null", "onnx=x.onnx", "tta=hflip"], ["tta", "ckpt="]),
    "device of a file": (["source={images}", "ckpt=null", "onnx=x.onnx", "device=cpu"], ["device", "onnx=..."]),
    "unknown key": (["source={images}", "thresold=0.5"], ["thresold", "threshold"]),
    "output in a file": (["source={images}", "boxes={table}", "output_dir=boxes.csv"], ["boxes.csv", "is a file"]),
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(refused, checkpoint, coco_set, table, tmp_path, arguments):
    (tmp_path / "void").mkdir()
    given, words = arguments
    plain = tmp_path / "void" / "plain.pth"  # without a postprocessor
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["config"]["extractor"]["postprocess"] = None
    torch.save(content, plain)
    given = [one.format(images=coco_set.images, table=table, plain=plain) for one in given]
    refused(roiseg.predict, ["output_dir=out", f"ckpt={checkpoint}", *given], *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["boxes.csv", "void"]
