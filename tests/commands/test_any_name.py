"""Names of folders and files reach every command as a shell passes them, whatever they hold."""

import importlib
import json
import os
import shutil

import pytest

NAME = os.fsdecode(b" \xff\xfe") + "ü=1, 'b' \"c\" [bold] (e) {f} $g #h !i&j;k\\ :smile: "


@pytest.mark.slow
def test_every_command_takes_any_name(run_main, tiny_overrides, coco_set, onnx_file, tmp_path):
    """Inputs, outputs, images and the folders above them, all of this name."""
    name, root = NAME, tmp_path / "[/x]"
    shutil.copytree(coco_set.images, root / "images")
    shutil.copy(onnx_file, root / f"{name}.onnx")
    content = coco_set.content()
    for image in content["images"]:
        if image["file_name"] == "a.jpg":
            image["file_name"] = f"{name}.jpg"
    (root / "images/a.jpg").rename(root / f"images/{name}.jpg")
    boxes = root / f"{name}.json"
    boxes.write_text(json.dumps(content))

    def run(command, *overrides):
        code, stderr = run_main(importlib.import_module(f"roiseg.{command}"), *overrides)
        assert (code, stderr) == (0, ""), f"{command}: {stderr!a}"

    given = dict(override.split("=", 1) for override in tiny_overrides)
    for split in ("train", "val"):
        given |= {f"data.{split}_annotations": f"[/x]/{name}.json", f"data.{split}_images": "[/x]/images"}
    given |= {"extractor.onnx_path": f"[/x]/{name}.onnx", "paths.root_dir": str(root)}
    usual = [f"{key}={value}" for key, value in given.items()]
    usual_run = [
        *usual, "~callbacks.onnx_export", "paths.output_dir=[/x]/run", "paths.checkpoint_dir=[/x]/ckpt",
    ]  # fmt: skip
    run("train", *usual_run, "trainer.max_epochs=1")
    run("train", *usual_run, "trainer.max_epochs=2", "ckpt_path=last")
    *_, checkpoint = sorted(root.glob("ckpt/checkpoint*.pth"))
    ckpt = checkpoint.rename(root / f"{name}.pth").relative_to(tmp_path)
    run("doctor", *usual, "output=[/x]/doctor.json")
    run("preview", *usual, f"output=[/x]/{name}.png")
    run("doctor", *usual, "decoders=[roialign]", "output=[/x]/costs.json")
    run("analyze", f"annotations=[/x]/{name}.json", "output_dir=[/x]", "index_dir=[/x]/index")
    run("export", f"ckpt={ckpt}", f"output=[/x]/{name}-x.onnx")
    run("export", f"check=[/x]/{name}-x.onnx", f"ckpt={ckpt}", "runs=1", "rois=[1]")
    run("evaluate", f"ckpt={ckpt}", f"onnx=[/x]/{name}-x.onnx", "output_dir=[/x]/evaluated")
    run("predict", "[/x]/images", f"ckpt={ckpt}", f"boxes=[/x]/{name}.json", "output_dir=[/x]/found", "writers=[all]")  # fmt: skip
    run("report", "[/x]/run", "output_dir=[/x]/report")
    names = {image["file_name"] for image in json.loads((root / "found/coco_images.json").read_text())}
    assert f"{name}.jpg" in names
    assert {path.name for path in tmp_path.iterdir()} <= {"[", "data", "outputs"}
