"""Every mistake ends in one line that names what to mend, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import run_command, write_coco

import roiseg.export
import roiseg.train


def one_line(stderr):
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("roiseg: error: ")
    return lines[0]


MISTAKES = {
    "unknown key": (["trainer.max_epoch=3"], ["trainer.max_epoch", "nearest: trainer.max_epochs"]),
    "unknown key of a group": (["model.depht=3"], ["model.depht", "model.depth"]),
    "unknown choice": (["model=roialing"], ["model=roialing", "roialign"]),
    "unknown experiment": (["experiment=coco_persons"], ["coco_persons", "nearest: coco_person"]),
    "unreadable override": (["extractor.layers=[a"], ["extractor.layers=[a", "quote"]),
    "wrong type": (["trainer.max_epochs=many"], ["trainer.max_epochs", "many", "int"]),
    "wrong type in a list": (["data.augment.geometric.scale=[1,x]"], ["data.augment.geometric.scale", "x"]),
    "text for a yes or no": (
        ["callbacks.overlays.row_height=tall"],
        ["callbacks.overlays.row_height", "tall"],
    ),
    "wrong model value": (["model.num_classes=4"], ["model.num_classes", "less than or equal to 3", "4"]),
    "output grid out of reach": (
        ["model.output_size=[50,50]"],
        ["model.output_size", "[50, 50]", "[56, 56]"],
    ),
    "unknown loss weights": (["loss.class_weights=sqrt"], ["loss.class_weights", "log", "inverse"]),
    "too many loss weights": (["loss.class_weights=[1,2,3,4]"], ["loss.class_weights", "4", "3"]),
    "no loss": (["loss.terms.ce.weight=0", "loss.terms.dice.weight=0"], ["loss.terms"]),
    "no detector": (["extractor.onnx_path=/nowhere/x.onnx"], ["/nowhere/x.onnx", "extractor.onnx_path"]),
    "no tensor": (
        ["extractor.layers=[/model.6/Concat_output]"],
        ["/model.6/Concat_output_0", "[1, 32, 8, 8]"],
    ),
    "not a map": (["extractor.layers=[output]"], ["extractor.layers", "output", "[1, 5]"]),
    "wrong input size": (["extractor.preprocess.image_size=[96,64]"], ["image_size", "96"]),
    "unknown provider": (
        ["extractor.providers=[AbacusProvider]"],
        ["AbacusProvider", "CPUExecutionProvider"],
    ),
    "no annotations": (["data.val_annotations=/nowhere/x.json"], ["/nowhere/x.json", "annotations"]),
    "no image folder": (["data.train_images=/nowhere"], ["/nowhere", "data.train_images"]),
    "nothing large enough": (["data.min_roi_size=4000"], ["min_roi_size", "4000"]),
    "no checkpoint": (["ckpt_path=/nowhere/x.pth"], ["/nowhere/x.pth", "ckpt_path"]),
    "a cache of nothing": (
        ["data/cache=memory", "data.cache.budget_gb=0"],
        ["data.cache.budget_gb", "greater than 0"],
    ),
    "a cache in a file": (
        ["data/cache=disk", "data.cache.folder=/dev/null"],
        ["data.cache.folder", "/dev/null"],
    ),
    "unknown cache": (["data/cache=dsik"], ["data/cache=dsik", "nearest: disk"]),
    "a pool without a cache": (["data/pool=augmented"], ["data/pool", "data/cache"]),
    "a pool of nothing": (
        ["data/cache=memory", "data/pool=augmented", "data.pool.size=0"],
        ["data.pool", "greater than 0"],
    ),
    "a pool of plain images": (
        ["data/cache=memory", "data/pool=augmented", "data/augment=null"],
        ["data/pool", "data/augment"],
    ),
    "bad batch size": (["data.batch_size=0"], ["data.batch_size"]),
    "unknown metric": (["optimized_metric=val/iou", "trainer.max_epochs=1"], ["val/iou", "val/miou"]),
    "clicks for a model that reads none": (["clicks=random"], ["clicks=null", "point prompts"]),
    "a frame for a model that has none": (["model.frame=image"], ["model.frame"]),
    "film of text": (["model.film=x"], ["model.film", "'x'", "valid number"]),
    "film of nothing": (["model.film=0"], ["model.film", "greater than 0", "null"]),
    "detail of text": (["model.detail=a"], ["model.detail", "'a'", "valid integer"]),
    "detail of half a channel": (["model.detail=8.5"], ["model.detail", "8.5", "valid integer"]),
    "detail of nothing": (["model.detail=0"], ["model.detail", "greater than 0"]),
    "misspelt shared option": (["model.flim=1"], ["model.flim", "model.film"]),
    "empty metric grid": (["data.metric_size=[0,5]"], ["data.metric_size", "[0, 5]"]),
    "metric grid of one number": (["data.metric_size=56"], ["data.metric_size", "56"]),
    "metric grid in fractions": (["data.metric_size=[5.5,5]"], ["data.metric_size", "5.5"]),
    "term from epoch 0": (
        ["loss.terms.ce.from_epoch=0"],
        ["loss.terms.ce.from_epoch", "greater than 0", "0"],
    ),
    "term from an epoch in words": (["loss.terms.ce.from_epoch=x"], ["loss.terms.ce.from_epoch", "'x'"]),
    "all terms late": (
        ["loss.terms.ce.from_epoch=2", "loss.terms.dice.from_epoch=3"],
        ["loss.terms", "first epoch", "from_epoch=1"],
    ),
    "weight in words": (["loss.terms.ce.weight=x"], ["loss.terms.ce.weight", "x"]),
    "emphasis below 0": (["loss.emphasis.outside=-1"], ["loss.emphasis", "-1"]),
    "no emphasis at all": (
        ["loss.emphasis.inside=0", "loss.emphasis.outside=0"],
        ["loss.emphasis", "both 0"],
    ),
    "missing value": (["data.train_images=???"], ["data.train_images"]),
    "unset environment variable": (["extractor=yolox"], ["ROISEG_REALDATA"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(run_main, tiny_overrides, tmp_path, monkeypatch, name):
    monkeypatch.delenv("ROISEG_REALDATA", raising=False)
    arguments, expected = MISTAKES[name]
    replaced = {a.split("=")[0] for a in arguments}
    kept = [o for o in tiny_overrides if o.split("=")[0] not in replaced]
    if name == "unset environment variable":
        kept = [o for o in kept if "onnx_path" not in o]
    code, stderr = run_main(roiseg.train, *kept, "~callbacks.onnx_export", *arguments)
    assert code == 2
    line = one_line(stderr)
    for text in expected:
        assert text in line
    if name != "unknown metric":
        left = [p for p in tmp_path.rglob("*") if p.is_file() and "coco" not in str(p)]
        assert not [p for p in left if p.parent != tmp_path / "data/index"]  # good for the next try


def broken_set(folder, change):
    coco = write_coco(
        folder, {"a.jpg": (64, 64)}, [{"file": "a.jpg", "segmentation": [10, 10, 50, 10, 50, 60]}]
    )
    content = coco.content()
    change(content, coco)
    if content is not None:
        coco.json.write_text(json.dumps(content))
    return coco


def truncate(path):
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


SETS = {
    "no person": (lambda c, s: c["annotations"].clear(), ["category_id 1"]),
    "box of three": (lambda c, s: c["annotations"][0].update(bbox=[1, 2, 3]), ["annotations[0]", "bbox"]),
    "odd polygon": (lambda c, s: c["annotations"][0].update(segmentation=[[1, 2, 3]]), ["annotations[0]", "segmentation"]),
    "path out of the folder": (lambda c, s: c["images"][0].update(file_name="../a.jpg"), ["images[0]", "../a.jpg"]),
    "no image": (lambda c, s: (s.images / "a.jpg").unlink(), ["a.jpg"]),
    "truncated image": (lambda c, s: truncate(s.images / "a.jpg"), ["a.jpg"]),
    "not an image": (lambda c, s: (s.images / "a.jpg").write_text("hello"), ["a.jpg"]),
    "another size": (lambda c, s: c["images"][0].update(width=80), ["a.jpg", "80x64"]),
}  # fmt: skip


@pytest.mark.slow_except
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", SETS)
def test_a_broken_data_set_is_named_in_one_line(run_main, tiny_overrides, tmp_path, name, workers):
    if workers and name not in ("not an image", "another size"):
        pytest.skip("found before the loader starts")
    change, expected = SETS[name]
    coco = broken_set(tmp_path / "coco", change)
    kept = [o for o in tiny_overrides if not o.startswith(("data.train_", "data.num_workers"))]
    code, stderr = run_main(
        roiseg.train, *kept, f"data.train_annotations={coco.json}", f"data.train_images={coco.images}",
        f"data.num_workers={workers}", "~callbacks.onnx_export",
    )  # fmt: skip
    assert code == 2
    for text in expected:
        assert text in one_line(stderr)


def test_a_broken_json_is_named_with_its_line(run_main, tiny_overrides, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"images": [\n{"id": 1,]}')
    code, stderr = run_main(roiseg.train, *tiny_overrides, f"data.val_annotations={path}")
    assert code == 2
    assert str(path) in one_line(stderr)
    assert "line 2" in one_line(stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    return tmp_path_factory.mktemp("trained")


def test_checkpoints_that_do_not_fit_are_refused(run_main, run_train, tiny_overrides, tmp_path):
    good = Path(run_train(tmp_path / "first", "trainer.max_epochs=1")["best_checkpoint"])
    cases = {
        "model.num_classes=2": ["model.num_classes=3", "2"],
        "model.depth=2": ["model.depth=1", "2"],
        "extractor.layers=[/model.5/act/Relu_output_0]": ["layers", "/model.6/Concat_output_0"],
    }
    for override, expected in cases.items():
        key = override.split("=")[0]
        kept = [o for o in tiny_overrides if not o.startswith(key)]
        code, stderr = run_main(roiseg.train, *kept, override, f"ckpt_path={good}")
        assert code == 2
        for text in [str(good), *expected]:
            assert text in one_line(stderr)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(good.read_bytes()[:3000])
    for command, argument in ((roiseg.train, f"ckpt_path={damaged}"), (roiseg.export, f"ckpt={damaged}")):
        extra = tiny_overrides if command is roiseg.train else []
        code, stderr = run_main(command, *extra, argument)
        assert code == 2
        assert str(damaged) in one_line(stderr)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_real_process_ends_with_code_2_and_one_line(tmp_path):
    done = run_command(
        ["roiseg.train", "extractor.onnx_path=missing.onnx", "extractor.source=null"], cwd=tmp_path
    )
    assert done.returncode == 2
    assert "missing.onnx" in one_line(done.stderr)
    assert done.stdout == ""
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
