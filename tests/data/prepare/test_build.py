"""Annotations and images made from a folder with COCO in it."""

import re
import shutil

import pytest
from small_coco import coco_dict, contents, make, read, reference

from roiseg.common.errors import UserError
from roiseg.data.prepare.persons import SPLITS, person_only, subset


def test_six_files_from_a_folder(source, layout):
    prepared = make(layout.root, source)
    assert len(prepared.reports) == 6
    for split in SPLITS:
        coco = read(source / "annotations" / f"instances_{split}.json")
        images, persons = reference(coco)
        full, eight, three = (read(layout.annotations(split, size)) for size in (None, 8, 3))
        person = [{"id": 1, "name": "person"}]
        assert full == coco | {"images": images, "annotations": persons, "categories": person}
        names = [{i["file_name"] for i in coco["images"]} for coco in (three, eight, full)]
        assert names[0] <= names[1] <= names[2]
        assert [len(n) for n in names] == [3, min(8, len(images)), len(images)]
        assert layout.images(split).is_symlink()
        assert all((layout.images(split) / name).is_file() for name in names[2])
    written = {path.name for path in (layout.root / "annotations").glob("[!.]*")}
    assert written == {report.path.name for report in prepared.reports}


def test_second_run_changes_nothing_and_another_seed_only_the_subsets(source, layout):
    make(layout.root, source)
    before = contents(layout.root)
    assert make(layout.root, source).made == []
    assert make(layout.root, None).made == [], "complete: nothing to download, so no network is needed"
    assert contents(layout.root) == before
    made = {path.name for path in make(layout.root, source, seed=1).made}
    assert layout.annotations("train2017", 3).name in made
    assert all(re.search(r"_\d+\.json$", name) for name in made)


def test_what_is_missing_is_made_again_and_what_was_changed_is_named(source, layout):
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


def test_a_link_and_a_folder_of_the_users_stay(source, layout, tmp_path):
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


def test_copy_takes_only_images_with_persons_and_resumes(source, layout):
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


def test_images_may_lie_under_images_and_in_the_output_itself(source):
    (source / "images").mkdir()
    for split in SPLITS:
        (source / split).rename(source / "images" / split)
    for mode in ("link", "copy"):
        make(source, source, images=mode)
        assert not (source / "images" / "train2017").is_symlink()
        assert len(list((source / "images" / "train2017").iterdir())) == 30


def test_what_the_source_lacks_is_named_before_anything_is_written(source, layout):
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


def test_a_file_name_that_leaves_the_folder_is_refused():
    coco = coco_dict(20, seed=3)
    for image in coco["images"]:
        image["file_name"] = f"../{image['file_name']}"
    with pytest.raises(UserError, match=r"\.\./"):
        person_only(coco, "file")


def test_subsets_are_nested_deterministic_and_depend_on_the_seed():
    full = person_only(coco_dict(200, seed=1), "file")
    shuffled = {**full, "images": full["images"][::-1]}

    def ids(size, seed, of=full):
        return {image["id"] for image in subset(of, size, seed)["images"]}

    for seed in (0, 1):
        assert (len(ids(10, seed)), len(ids(50, seed))) == (10, 50)
        assert ids(10, seed) < ids(50, seed)
    assert ids(50, 0) != ids(50, 1)
    assert ids(50, 0, shuffled) == ids(50, 0)
    persons = [a for a in full["annotations"] if a["image_id"] in ids(10, 0)]
    assert subset(full, 10, 0)["annotations"] == persons
    assert subset(full, 10_000, 0) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "cat"}]}, "category 1 is not `person`"),
        ({"images": []}, "is of image 5, not in `images`"),
        ({"annotations": None}, "no list `annotations`"),
        ({"annotations": [{"id": 7}]}, "no valid field 'category_id'"),
        ({"annotations": []}, "no image shows a person"),
    ],
)
def test_wrong_input_is_named(change, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        person_only({**coco_dict(20, seed=3), **change}, "some.json")
    assert str(caught.value).startswith("some.json")
