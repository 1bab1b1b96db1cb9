"""A command given a missing or wrong file leaves nothing: no results, folders, indices or locks."""

import importlib

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

_DATA = ["data.train_annotations", "data.train_images", "data.val_annotations", "data.val_images"]
# command: (options with which it works, options that name a file or folder)
COMMANDS = {
    "train": (["TINY", "~callbacks.onnx_export"], [*_DATA, "extractor.onnx_path", "ckpt_path"]),
    "preview": (["TINY"], [*_DATA, "extractor.onnx_path"]),
    "doctor": (["TINY"], [*_DATA, "extractor.onnx_path"]),
    "analyze": (["annotations=ANNOTATIONS"], ["annotations"]),
    "evaluate": (
        ["ckpt=CHECKPOINT"], ["ckpt", "onnx", "onnx_path", "data.val_annotations", "data.val_images"],
    ),
    "export": (["ckpt=CHECKPOINT", "merged=true"], ["ckpt", "onnx_path", "check"]),
    "predict": (
        ["ckpt=CHECKPOINT", "source=IMAGES", "boxes=coco"], ["source", "ckpt", "onnx", "onnx_path", "boxes"],
    ),
    "report": ([], ["runs"]),
    "decide": ([], ["runs"]),
    "app": (["ckpt=CHECKPOINT", "compare=CHECKPOINT"], ["ckpt", "compare", "onnx_path"]),
    "prepare": ([], ["source"]),
}  # fmt: skip


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow_except("evaluate")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_file_leaves_nothing(command, run_main, finished, tiny_overrides, coco_set, tmp_path):
    given, options = COMMANDS[command]
    known = {"CHECKPOINT": finished.checkpoint, "IMAGES": coco_set.images, "ANNOTATIONS": coco_set.json}
    words = []
    for word in given:
        for name, value in known.items():
            word = word.replace(name, str(value))
        words += tiny_overrides if word == "TINY" else [word]
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    empty, text, zero = inputs / "folder", inputs / "text.json", inputs / "zero.json"
    empty.mkdir(parents=True)
    work.mkdir()
    text.write_text("hello")
    zero.touch()
    for option in options:
        for wrong in (inputs / "missing.json", empty, text, zero):
            before = tree(inputs), tree(finished.root)
            kept = [word for word in words if word.split("=")[0] != option]
            if option == "ckpt":  # one model is enough
                kept = [word for word in kept if not word.startswith("onnx=")]
            code, stderr = run_main(
                importlib.import_module(f"roiseg.{command}"), *kept, f"{option}={wrong}", folder=work
            )
            assert code == 2, (option, wrong, stderr)
            assert command == "doctor" or stderr.count("\n") == 1, (option, wrong, stderr)
            left = list(work.rglob("*"))
            if command == "doctor":  # checks the other files too, and keeps the index of a valid one
                left = [path for path in left if path.is_file() and path.suffix != ".index"]
            assert left == [], (option, wrong)
            assert (tree(inputs), tree(finished.root)) == before, (option, wrong)
