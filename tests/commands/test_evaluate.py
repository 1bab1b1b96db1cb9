"""`python -m roiseg.evaluate` from end to end: a run's own test again, exported files, mistakes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from composing import composed
from helpers import halves
from helpers.commands import changed_checkpoint

import roiseg.evaluate
import roiseg.report
from roiseg.common.files import read_json
from roiseg.train import train

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("single_thread")]

LOOKS = ["tta=full", "tta.max_crop_share=0.4"]
SMALL = ["model.mid_channels=8", "model.min_channels=8", "model.depth=1"]
RUNS = {
    "looks, half features, bf16": [*SMALL, *LOOKS, "data/cache=memory", "trainer.precision=bf16-mixed"],
    "2 classes on the image": [
        "model=unet", "model.channels=8", "model.depth=1", "model.num_classes=2", "data.metric_size=[20,12]",
    ],
}  # fmt: skip


@pytest.fixture
def run_of(tiny_overrides, tmp_path):
    """Train; returns the summary."""
    shared = [o for o in tiny_overrides if not o.startswith("model.")]

    def run(*overrides):
        extra = ["~callbacks.onnx_export", "~callbacks.overlays"]
        return train(composed([*shared, *extra, *overrides], tmp_path / "run")).content()

    return run


@pytest.fixture
def evaluate(run_main, tmp_path):
    """Evaluate in this process; returns what evaluation.json holds, and its folder."""

    def run(*arguments):
        folder = tmp_path / f"evaluated{len(list(tmp_path.glob('evaluated*')))}"
        device = ["device=cpu"] if str(arguments[0]).startswith("ckpt=") else []
        shared = [f"output_dir={folder}", "data.num_workers=0", *device]
        code, error = run_main(roiseg.evaluate, *shared, *arguments)
        assert code == 0, error
        return read_json(folder / "evaluation.json", "evaluation"), folder

    return run


def rows(folder):
    with open(folder / "instances.csv", newline="") as stream:
        return {row["annotation_id"]: row for row in csv.DictReader(stream)}


@pytest.mark.slow_except("plain")
@pytest.mark.parametrize("options", [None, *RUNS.values()], ids=["plain", *RUNS])
def test_a_runs_own_test_is_measured_again_to_the_same_figures(run_of, finished, evaluate, options):
    summary = run_of(*options) if options else finished.summary
    expected = {name: value for name, value in summary["test"].items() if "/loss" not in name}
    told, folder = evaluate(f"ckpt={summary['best_checkpoint']}")
    (found,) = told["evaluations"].values()
    assert found["test"] == pytest.approx(expected, abs=1e-6)
    trained = Path(summary["output_dir"])
    assert (folder / "instances.csv").read_text() == (trained / "instances.csv").read_text()
    assert all((folder / f"{name}.png").stat().st_size > 1000 for name in ("worst", "best"))
    assert len(read_json(folder / "results.json", "results")) == len(rows(trained)) == told["data"]["rois"]
    assert (told["data"]["tta"] is None) is ("tta=full" not in (options or ()))
    assert sum(sum(row.values()) for row in found["confusion"]["classes"].values()) > 0


def test_data_and_looks_are_overridden_one_by_one(checkpoint, evaluate, coco_set, tmp_path):
    config = {"tta": WITH_LOOKS, "trainer": {"precision": "bf16-mixed"}}
    ckpt = f"ckpt={changed_checkpoint(checkpoint, tmp_path / 'x.pth', config, min_roi_size=40)}"
    with_looks, _ = evaluate(ckpt)
    once, folder = evaluate(
        ckpt, "tta=null", "precision=32-true", "data.min_roi_size=16", "worst=0", "best=1"
    )
    assert [(folder / f"{name}.png").exists() for name in ("worst", "best")] == [False, True]
    other = [f"{key}={getattr(coco_set, name)}" for key, name in (
        ("data.val_annotations", "json"), ("data.val_images", "images"),
    )]  # fmt: skip
    chosen, _ = evaluate(ckpt, "data=default", *other)
    assert once["data"]["tta"] is None and with_looks["data"]["tta"] is not None
    arithmetic = [told["models"]["checkpoint"]["arithmetic"] for told in (with_looks, once)]
    assert arithmetic == ["bf16-mixed", "32-true"]
    assert with_looks["data"]["rois"] < once["data"]["rois"] == chosen["data"]["rois"] == 10


@pytest.mark.slow
def test_a_fold_is_the_checkpoints_unless_there_are_other_files(run_of, evaluate, coco_set, tmp_path):
    files = [f"data.{path.stem}_annotations={path}" for path in halves(coco_set, tmp_path)]
    summary = run_of(*SMALL, *files, "data/folds=five", "data.folds.number=2")
    ckpt = f"ckpt={summary['best_checkpoint']}"
    held_out, folder = evaluate(ckpt)
    assert held_out["data"]["fold"] == "fold_0_of_2"
    assert held_out["data"]["rois"] == summary["data"]["val_rois"]
    assert rows(folder) == rows(Path(summary["output_dir"]))
    everything, _ = evaluate(ckpt, f"data.val_annotations={coco_set.json}")
    assert (everything["data"]["fold"], everything["data"]["rois"]) == (None, 10)


@pytest.mark.slow_except("True")
@pytest.mark.parametrize("merged", [False, True])
def test_an_exported_file_beside_its_checkpoint(finished, evaluate, tmp_path, merged):
    file = finished.exported(merged)
    ckpt = changed_checkpoint(finished.checkpoint, tmp_path / finished.checkpoint.name, {"tta": WITH_LOOKS})
    told, folder = evaluate(f"ckpt={ckpt}", f"onnx={file}")
    assert told["data"]["tta"] is None
    first, second = rows(folder / "checkpoint"), rows(folder / "onnx")
    off = {number: float(second[number]["iou"]) - float(row["iou"]) for number, row in first.items()}
    difference = told["difference"]
    assert abs(difference["largest_instance_iou_difference"]) == pytest.approx(max(map(abs, off.values())))
    assert off[str(difference["annotation_id"])] == difference["largest_instance_iou_difference"]
    assert max(map(abs, off.values())) < 0.15  # its masks come by way of the input's pixels
    mean = np.mean(list(off.values()))
    assert difference["figures"]["test/instance_iou"] == pytest.approx(mean, abs=1e-6)
    assert "test/miou" not in difference["figures"]  # of 3 classes and of 2
    (annotations,) = told["data"]["annotations"]
    data = [f"data.val_annotations={annotations}", f"data.val_images={Path(annotations).parent / 'images'}"]
    detector = [] if merged else [f"onnx_path={finished.detector}"]
    alone, _ = evaluate(f"onnx={file}", "data=default", *data, *detector)
    assert alone["evaluations"]["onnx"] == told["evaluations"]["onnx"]


def test_evaluations_are_runs_to_the_report(checkpoint, run_main, evaluate, tmp_path):
    other = changed_checkpoint(checkpoint, tmp_path / "other.pth", train_limit=3)  # trained on other images
    folders = [evaluate(f"ckpt={path}", "tta=hflip")[1] for path in (checkpoint, other)]
    code, error = run_main(roiseg.report, *folders, f"output_dir={tmp_path}/report")
    assert code == 0, error
    variants = read_json(tmp_path / "report" / "report.json", "report")["variants"]
    assert len(variants) == 2


def test_a_run_and_its_evaluations_are_compared_by_what_they_replaced(finished, run_main, evaluate, tmp_path):
    trained = finished.summary["output_dir"]
    options = [[], ["tta=hflip"], ["decision=target"], ["precision=bf16-mixed"]]
    folders = [evaluate(f"ckpt={finished.summary['best_checkpoint']}", *option)[1] for option in options]
    code, error = run_main(roiseg.report, trained, *folders, f"output_dir={tmp_path}/report")
    assert code == 0, error
    found = read_json(tmp_path / "report" / "report.json", "report")["variants"]
    names = [variant["variant"] for variant in found]
    assert len(names) == 4, names  # the run and its evaluation without options are the same
    assert [name.count("=") for name in names] == [3] * 4
    assert all(key in names[0] for key in ("tta", "decision", "trainer.precision"))


WITH_LOOKS = {"_target_": "roiseg.data.tta.TTA", "hflip": True, "crop_scales": [1.5], "max_crop_share": 0.4}


MISTAKES = {
    "nothing": ([], ["ckpt=", "onnx="]),
    "a detector": (["ckpt={onnx}"], ["damaged"]),
    "two": (["ckpt=a.pth,b.pth"], ["a.pth,b.pth", "not found"]),
    "no postprocessor": (["ckpt={ckpt}", "boxes=detector"], ["extractor.postprocess"]),
    "device": (["ckpt={ckpt}", "device=abacus"], ["device=abacus"]),
    "key": (["ckpt={ckpt}", "data.min_roi_siz=3"], ["data.min_roi_siz", "data.min_roi_size"]),
    "choice": (["ckpt={ckpt}", "data=coco_persn"], ["coco_persn", "coco_person"]),
    "category": (["ckpt={ckpt}", "data.category_id=cow"], ["data.category_id", "cow"]),
    "file of others": (["ckpt={ckpt}", "onnx={onnx}"], ["tiny.onnx"]),
    "file without images": (["onnx={onnx}", "data.val_annotations=x.json"], ["data.val_images"]),
    "looks of a file and a checkpoint": (["ckpt={ckpt}", "onnx=x.onnx", "tta=hflip"], ["tta", "exported file"]),
    "looks of a file": (["onnx=x.onnx", "tta=full"], ["tta", "exported file", "ckpt=..."]),
    "precision of a file": (["onnx=x.onnx", "precision=32-true"], ["precision", "exported file", "ckpt=..."]),
    "device of a file": (["onnx=x.onnx", "device=cpu"], ["device", "exported file", "ckpt=..."]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_line(checkpoint, refused, tmp_path, onnx_file, arguments, words):
    given = [argument.format(ckpt=checkpoint, onnx=onnx_file) for argument in arguments]
    refused(roiseg.evaluate, ["data.num_workers=0", *given], *words)
    assert not (tmp_path / "outputs").exists()


def test_a_foreign_source_or_cache_in_a_checkpoint_is_not_even_looked_at(checkpoint, evaluate, tmp_path):
    evil = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    nodes = dict.fromkeys(("source", "sampler", "augment", "pool"), evil)
    evaluate(f"ckpt={changed_checkpoint(checkpoint, tmp_path / 'evil.pth', **nodes)}")
    assert not (tmp_path / "made").exists()


@pytest.mark.realdata
def test_real_pictures_with_the_detectors_own_boxes(realdata, run_of, evaluate):
    setting = [
        "data=coco128_person", "extractor=yolox", "model=roialign", "model.mid_channels=8", "trainer.max_epochs=1",
        "data.source=null", "data/folds=five", "extractor.layers=['931']",
        f"extractor.onnx_path={realdata}/yolox_nano.onnx", "extractor.preprocess.image_size=[416,416]",
    ]  # fmt: skip
    files = {
        f"data.{split}_{kind}": f"{realdata}/coco128_person/{place.format(split)}"
        for split in ("train", "val")
        for kind, place in (
            ("annotations", "annotations/instances_{}2017_person_only_no_crowd.json"), ("images", "images/{}2017"),
        )
    }  # fmt: skip
    summary = run_of(*setting, *(f"{key}={value}" for key, value in files.items()))
    ckpt = f"ckpt={summary['best_checkpoint']}"
    told, _ = evaluate(ckpt)
    assert told["evaluations"]["checkpoint"]["test"]["test/instance_iou"] == pytest.approx(
        summary["test"]["test/instance_iou"], abs=1e-6
    )
    detected, folder = evaluate(ckpt, "boxes=detector")
    figures = detected["evaluations"]["checkpoint"]
    assert figures["average_precision_of_boxes"]["AP50"] > 0.4  # a real detector on real people
    assert figures["persons"] > told["data"]["rois"]
    assert figures["detections"] == len(read_json(folder / "results.json", "results")) > 0
    assert 0 <= figures["average_precision"]["AP"] < figures["average_precision_of_boxes"]["AP"]
