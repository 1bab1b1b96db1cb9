"""Annotations and images made from a folder with COCO in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from coco_folder import coco_dict, contents, make, read, reference

from roiseg.common.errors import UserError
from roiseg.data.prepare import SPLITS, Layout
from roiseg.data.prepare.persons import person_only


def test_six_files_from_a_folder(source: Path, layout: Layout) -> None:
    prepared = make(layout.root, source)
    assert len(prepared.reports) == 6
    for split in SPLITS:
        images, persons = reference(read(source / "annotations" / f"instances_{split}.json"))
        full, eight, three = (read(layout.annotations(split, size)) for size in (None, 8, 3))
        assert (full["images"], full["annotations"]) == (images, persons)
        names = [{i["file_name"] for i in coco["images"]} for coco in (three, eight, full)]
        assert names[0] <= names[1] <= names[2]
        assert [len(n) for n in names] == [3, min(8, len(images)), len(images)]
        assert layout.images(split).is_symlink()
        assert all((layout.images(split) / name).is_file() for name in names[2])
    assert sorted(p.name for p in (layout.root / "annotations").glob("[!.]*")) == sorted(
        r.path.name for r in prepared.reports
    )


def test_second_run_changes_nothing_and_another_seed_only_the_subsets(source: Path, layout: Layout) -> None:
    make(layout.root, source)
    before = contents(layout.root)
    assert make(layout.root, source).made == []
    assert make(layout.root, None).made == [], "complete: nothing to download, so no network is needed"
    assert contents(layout.root) == before
    made = {path.name for path in make(layout.root, source, seed=1).made}
    assert layout.annotations("train2017", 3).name in made
    assert all(re.search(r"_\d+\.json$", name) for name in made)


def test_what_is_missing_is_made_again_and_what_was_changed_is_named(source: Path, layout: Layout) -> None:
    make(layout.root, source)
    subset, full = layout.annotations("train2017", 3), layout.annotations("val2017")
    before = subset.read_bytes()
    subset.unlink()
    assert make(layout.root, source).made == [subset]
    assert subset.read_bytes() == before
    full.write_bytes(full.read_bytes()[:-20])
    corrected = full.read_bytes()
    with pytest.raises(UserError, match=rf"{full.name} exists, .* remove it"):
        make(layout.root, source)
    assert full.read_bytes() == corrected


def test_a_link_and_a_folder_of_the_users_stay(source: Path, layout: Layout, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    images = layout.images("train2017")
    images.parent.mkdir(parents=True)
    images.symlink_to(photos)
    for mode in ("link", "copy"):
        with pytest.raises(UserError, match="remove the link"):
            make(layout.root, source, images=mode)
    assert images.resolve() == photos.resolve()
    assert not list(photos.iterdir())
    images.unlink()
    images.mkdir()
    (images / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="images=copy"):
        make(layout.root, source)
    assert (images / "mine.jpg").read_bytes() == b"mine"


def test_copy_takes_only_images_with_persons_and_resumes(source: Path, layout: Layout) -> None:
    make(layout.root, source)  # links, which copying must not write through
    original = contents(source)
    make(layout.root, source, images="copy")
    assert contents(source) == original
    folder = layout.images("train2017")
    assert not folder.is_symlink()
    images, _ = reference(read(source / "annotations" / "instances_train2017.json"))
    assert {p.name for p in folder.iterdir()} == {i["file_name"] for i in images}
    first, second, *_rest = sorted(folder.iterdir())
    first.unlink()
    second.write_bytes(b"of the user's")
    with pytest.raises(UserError, match=rf"{second.name} exists"):
        make(layout.root, source, images="copy")
    assert second.read_bytes() == b"of the user's"
    second.unlink()
    kept = contents(folder)
    make(layout.root, source, images="copy")
    after = contents(folder)
    assert {name: after[name] for name in kept} == kept
    for path in (first, second):
        assert path.read_bytes() == (source / "train2017" / path.name).read_bytes()


def test_images_may_lie_under_images_and_in_the_output_itself(source: Path) -> None:
    (source / "images").mkdir()
    for split in SPLITS:
        (source / split).rename(source / "images" / split)
    for mode in ("link", "copy"):
        make(source, source, images=mode)
        assert not (source / "images" / "train2017").is_symlink()
        assert len(list((source / "images" / "train2017").iterdir())) == 30


def test_what_the_source_lacks_is_named_before_anything_is_written(source: Path, layout: Layout) -> None:
    images, _ = reference(read(source / "annotations" / "instances_train2017.json"))
    for image in images[2:4]:
        (source / "train2017" / image["file_name"]).unlink()
    with pytest.raises(UserError, match=rf"2 of {len(images)} images .*first {images[2]['file_name']}"):
        make(layout.root, source)
    assert not layout.root.exists()
    assert len(make(layout.root, source, images="skip").made) == 6
    shutil.rmtree(source / "val2017")
    (source / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(UserError) as caught:
        make(layout.root.with_name("other"), source)
    for lacks in ("annotations/instances_val2017.json", "val2017/ (or images/val2017/)", "both splits"):
        assert lacks in str(caught.value)
    assert not layout.root.with_name("other").exists()


def test_a_file_name_that_leaves_the_folder_is_refused() -> None:
    coco = coco_dict(20, seed=3)
    for image in coco["images"]:
        image["file_name"] = f"../{image['file_name']}"
    with pytest.raises(UserError, match=r"\.\./"):
        person_only(coco, "file")


@pytest.mark.realdata
def test_real_images(realdata: Path, tmp_path: Path) -> None:
    real, coco = realdata / "coco128_person", tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split in SPLITS:
        file = f"annotations/instances_{split}"
        shutil.copy(real / f"{file}_person_only_no_crowd.json", coco / f"{file}.json")
        (coco / split).symlink_to(real / "images" / split)
    prepared = make(tmp_path / "data", coco, sizes=[500, 100])
    counts = [(report.images, report.persons) for report in prepared.reports]
    assert counts == [(46, 203)] * 3 + [(15, 51)] * 3
    for split in SPLITS:
        path = Layout(tmp_path / "data", ()).annotations(split)
        assert read(path) == read(real / "annotations" / path.name)
