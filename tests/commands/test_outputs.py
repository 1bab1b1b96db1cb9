"""What commands leave: nothing of a wrong file, and nothing they did not write is destroyed.

The rule is that of `roiseg.common.outputs`, for every command.
"""

import importlib
import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.races import acting_before_call
from run_folders import noisy, write_run

from roiseg.callbacks.checkpoints import AtomicCheckpointIO
from roiseg.common import outputs
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, require_file, write_json

pytestmark = pytest.mark.filterwarnings("ignore")


# command: what it is given, with TARGET for the file it is to write, and that file's name in the output folder
FILES = {
    "export": ["ckpt=CHECKPOINT", "output=TARGET"],
    "preview": ["TINY", "output=TARGET.png"],
    "doctor": ["TINY", "output=TARGET"],
    "report": ["runs", "output_dir=FOLDER/report.csv"],
    "analyze": ["annotations=ANNOTATIONS", "output_dir=FOLDER/data_analyze.png"],
}
FOLDERS = {
    "train": ["TINY", "paths.output_dir=FOLDER", "trainer.max_epochs=1", "test=false", "~callbacks.onnx_export"],
    "evaluate": ["ckpt=CHECKPOINT", "data.val_annotations=ANNOTATIONS", "data.val_images=IMAGES", "output_dir=FOLDER"],
    "predict": ["ckpt=CHECKPOINT", "source=IMAGES", "output_dir=FOLDER"],
    "demo": ["make=[data]", "root=FOLDER"],
    "prepare": ["source=IMAGES", "output_dir=FOLDER"],
}  # fmt: skip


@pytest.fixture
def fill(tiny_overrides, checkpoint, coco_set):
    """The module of a command, and the words of a table filled in."""

    def filled(command, words, target=None, folder=None):
        known = {"CHECKPOINT": checkpoint, "IMAGES": coco_set.images, "ANNOTATIONS": coco_set.json}
        known |= {"TARGET.png": target, "TARGET": target, "FOLDER": folder}
        given = []
        for word in words:
            for name, value in known.items():
                word = word.replace(name, str(value))
            given += tiny_overrides if word == "TINY" else [word]
        return importlib.import_module(f"roiseg.{command}"), given

    return filled


def target_of(command, words, folder):
    """The file that a row of FILES writes, and the arguments that make it do so."""
    last = words[-1].rpartition("/")[2]
    if "FOLDER" not in words[-1]:
        return folder / ("x.png" if last.endswith(".png") else "x.out"), words
    words = [*words[:-1], words[-1].removesuffix(f"/{last}")]
    return folder / ("set_instances" if command == "analyze" else "") / last, words


@pytest.mark.parametrize("kind", ["a file", "a link", "an input"])
@pytest.mark.parametrize("command", FILES)
def test_what_a_command_did_not_write_stays(refused, fill, checkpoint, coco_set, tmp_path, command, kind):
    folder = tmp_path / "mine"
    target, words = target_of(command, FILES[command], folder)
    if command == "analyze":
        target = folder / f"{coco_set.json.parent.parent.name}_{coco_set.json.stem}" / target.name
    target.parent.mkdir(parents=True)
    write_run(tmp_path / "runs", noisy(0.5))
    kept = tmp_path / "kept"
    shutil.copy(checkpoint if kind == "an input" else coco_set.json, kept)
    if kind == "a link":
        target.symlink_to(kept)
    else:
        shutil.copy(kept, target)
    before = kept.read_bytes()
    refused(*fill(command, words, target, folder), target)
    assert target.read_bytes() == kept.read_bytes() == before
    assert target.is_symlink() == (kind == "a link")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_of_the_users_keeps_every_file(run_main, fill, tmp_path, command):
    folder = tmp_path / "mine"
    names = [
        "overlays/a.jpg", "summary.json", "config.yaml", "coco_results.json", "evaluation.json", "notes", ".lock",
        "synthetic.json", "images/train2017/000000000001.jpg",
        "annotations/instances_train2017_person_only_no_crowd.json",
    ]  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    module, given = fill(command, FOLDERS[command], folder=folder)
    run_main(module, *given)
    assert {path: path.read_bytes() for path in before if path.exists()} == before


@pytest.mark.parametrize("command", FILES | FOLDERS)
def test_what_cannot_be_written_is_told_before_the_work_and_leaves_nothing(refused, fill, tmp_path, command):
    (tmp_path / "file").write_text("in the way")
    write_run(tmp_path / "runs", noisy(0.5))
    before = sorted(tmp_path.rglob("*"))
    place = tmp_path / "file" / "below"
    refused(*fill(command, (FILES | FOLDERS)[command], place / "x.png", place), tmp_path / "file")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", FILES | FOLDERS)
def test_a_tilde_is_the_home_folder(refused, fill, tmp_path, monkeypatch, command):
    """Told by a file in the way, before the work."""
    (tmp_path / "home").write_text("in the way")
    write_run(tmp_path / "runs", noisy(0.5))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    refused(*fill(command, (FILES | FOLDERS)[command], "~/below/x.png", "~/below"), tmp_path / "home")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_is_replaced_by_the_command_that_wrote_it_and_not_once_it_is_changed(tmp_path):
    path = tmp_path / "x.json"
    for content in (1, 2):
        with outputs.purpose("doctor"):
            write_json(path, content)
    for purpose, change in (("export", None), ("doctor", "3 \n")):
        path.write_text(change or path.read_text())
        kept = path.read_text()
        refusal = rf"x\.json exists, .*roiseg\.{purpose}"
        with outputs.purpose(purpose), pytest.raises(UserError, match=refusal):
            write_json(path, 4)
        assert path.read_text() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == [".roiseg_made", "x.json"]


def test_file_that_another_process_replaces_meanwhile_is_still_ours(tmp_path, monkeypatch):
    """The other process does it while this one reads the record, or the file."""
    path = tmp_path / "x.json"
    for name in ("_read", "_digest"):
        with outputs.purpose("doctor"), monkeypatch.context() as patch:
            write_json(path, name)
            before = getattr(outputs, name)

            def meanwhile(*given, patch=patch, before=before, name=name):
                found = before(*given)
                patch.setattr(outputs, name, before)
                write_json(path, f"{name} again")
                return found

            patch.setattr(outputs, name, meanwhile)
            assert outputs.recorded(path)


def test_an_input_is_not_replaced_even_by_the_command_that_wrote_it(tmp_path):
    with outputs.purpose("export"):
        write_json(tmp_path / "x.onnx", 1)
    with outputs.purpose("export"):
        require_file(tmp_path / "x.onnx", "detector")
        with pytest.raises(UserError, match="exists"):
            write_json(tmp_path / "x.onnx", 2)


@pytest.mark.parametrize("name", ["../photo.jpg", "link/photo.jpg", "a/../../photo.jpg"])
def test_nothing_leaves_an_output_folder(tmp_path, name):
    (tmp_path / "photo.jpg").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    outputs.own(folder)
    for attempt in (lambda: outputs.inside(folder, name), lambda: atomic_path(folder / name).__enter__()):
        with pytest.raises(UserError, match="outside"):
            attempt()
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_the_overlays_of_two_sources_lie_in_the_output_folder(run_main, fill, coco_set, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(coco_set.images, photos / "overlays")
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    first, second = sorted(path.name for path in before)[:2]
    (tmp_path / "x").mkdir()
    sources = [f"{tmp_path}/x/../photos/overlays/{first}", f"photos/overlays/{second}"]
    words = [*sources, "ckpt=CHECKPOINT", "boxes=ANNOTATIONS", "output_dir=photos"]
    module, given = fill("predict", words)
    code, stderr = run_main(module, *given)
    assert code == 0, stderr
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == before
    written = sorted(path.name for path in (tmp_path / "photos-2/overlays").iterdir())
    assert written == sorted([first, second])


def test_a_writers_folder_elsewhere_is_refused(refused, fill, tmp_path):
    words = ["ckpt=CHECKPOINT", "source=IMAGES", "boxes=ANNOTATIONS", "output_dir=FOLDER"]
    words += [f"writers.overlay.folder={tmp_path}/mine"]
    refused(*fill("predict", words, folder=tmp_path / "out"), "outside the output folder")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_that_a_checkpoint_names_are_not_removed_elsewhere(tmp_path):
    users = tmp_path / "thesis" / "checkpoint_epoch_0001_64x64_0500.pth"
    users.parent.mkdir()
    torch.save({}, users)
    for path in (users, users.parent):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert users.exists()


def test_a_checkpoint_beside_a_run_does_not_decide_where_it_writes(run_train, finished, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "config.yaml").write_text("mine")
    content = torch.load(sorted(finished.checkpoint.parent.glob("*.pth"))[0], weights_only=True)
    config = content["roiseg"]["config"]
    config["paths"]["output_dir"] = str(thesis)
    config["data"]["index_dir"] = str(tmp_path / "data/index")  # else those of the run below
    del config["callbacks"]["onnx_export"]
    copied = tmp_path / "checkpoints" / "copied" / "checkpoint_epoch_0001_64x64_0500.pth"
    copied.parent.mkdir(parents=True)
    torch.save(content, copied)
    before = copied.read_bytes()
    given = [
        *finished.overrides, "ckpt_path=last", "test=false", f"paths.output_dir={tmp_path}/outputs/again",
    ]  # fmt: skip
    again = run_train(tmp_path, *given)
    assert again["resumed_from"] == str(copied)
    assert Path(again["output_dir"]) == tmp_path / "outputs/again"
    assert Path(again["checkpoint_dir"]) == tmp_path / "checkpoints/again"
    assert [p.name for p in thesis.iterdir()] == ["config.yaml"]
    assert (thesis / "config.yaml").read_text() == "mine"
    assert [p.read_bytes() for p in copied.parent.iterdir()] == [before]


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"loop"):
        write_json(tmp_path / "loop/index.json", {})
    assert (tmp_path / "loop").is_symlink()


DATA = ["data.train_annotations", "data.train_images", "data.val_annotations", "data.val_images"]
# command: (options with which it works, options that name a file or folder)
GIVEN_FILES = {
    "train": (["TINY", "~callbacks.onnx_export"], [*DATA, "extractor.onnx_path", "ckpt_path"]),
    "preview": (["TINY"], [*DATA, "extractor.onnx_path"]),
    "doctor": (["TINY"], [*DATA, "extractor.onnx_path"]),
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
@pytest.mark.parametrize("command", GIVEN_FILES)
def test_a_wrong_file_is_named_and_leaves_nothing(command, run_main, fill, finished, tmp_path):
    """No results, folders, indices or locks."""
    words, options = GIVEN_FILES[command]
    module, words = fill(command, words)
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
            if (command, option) == ("predict", "onnx"):  # one model is enough
                kept = [word for word in kept if not word.startswith("ckpt=")]
            code, stderr = run_main(module, *kept, f"{option}={wrong}", folder=work)
            assert code == 2, (option, wrong, stderr)
            assert command == "doctor" or (stderr.count("\n") == 1 and wrong.name in stderr), (option, stderr)
            left = list(work.rglob("*"))
            if command == "doctor":  # checks the other files too, and keeps the index of a valid one
                left = [path for path in left if path.is_file() and path.suffix != ".index"]
            assert left == [], (option, wrong)
            assert (tree(inputs), tree(finished.root)) == before, (option, wrong)


def read_by_proof(path):
    return b"made by" in path.read_bytes()


@pytest.mark.parametrize("proof", [None, read_by_proof], ids=["record", "proof"])
@pytest.mark.parametrize("act", ["remove", "replace"])
def test_another_process_may_remove_or_replace_the_same_file_meanwhile(act, proof, tmp_path, monkeypatch):
    """Of two processes that write one file, the last one wins."""
    for number in itertools.count():
        path = tmp_path / str(number) / "about.json"
        write_json(path, {"made by": "first"}, proof)
        another = path.unlink if act == "remove" else partial(write_json, path, {"made by": "another"}, proof)
        with acting_before_call(number, path, another, monkeypatch) as acted:
            write_json(path, {"made by": "me"}, proof)
        if not acted:
            break
        assert not path.exists() or json.loads(path.read_bytes())["made by"] in ("me", "another")
    assert number > 3
