from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from child_processes import CHILDREN, PATIENCE
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from roiseg.common.errors import UserError
from roiseg.synthetic import SyntheticPeople, dataset, synthetic_scene
from roiseg.synthetic.dataset import bounding_box, has_hole, rle, segmentation

TRAIN, VAL = 8, 40


def decode(segments: Any, height: int, width: int) -> np.ndarray:
    coded = coco_mask.frPyObjects(segments, height, width)
    return coco_mask.decode(coco_mask.merge(coded) if isinstance(coded, list) else coded).astype(bool)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPeople:
    data = SyntheticPeople(tmp_path_factory.mktemp("synthetic"), TRAIN, VAL, seed=3)
    data.ensure()
    return data


def digests(data: SyntheticPeople) -> dict[str, str]:
    files = [p for p in Path(data.root).rglob("*") if p.is_file()]
    return {str(p.relative_to(data.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_segmentation_of_any_mask_decodes_to_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    kinds: Counter[type] = Counter()
    for _ in range(600):
        height, width = (int(n) for n in rng.integers(1, 12, 2))
        mask = rng.random((height, width)) < rng.random()
        if not mask.any():
            continue
        segments = segmentation(mask)
        kinds[type(segments)] += 1
        assert (decode(segments, height, width) == mask).all()
        assert (decode(rle(mask), height, width) == mask).all()
    assert kinds[list] > 100
    assert kinds[dict] > 50


def test_a_ring_is_rle_and_an_open_ring_is_a_polygon() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert has_hole(ring)
    assert isinstance(segmentation(ring), dict)
    ring[2, 3:] = False
    assert not has_hole(ring)
    assert segmentation(np.pad(np.ones((2, 3), bool), 1)) == [[1, 1, 4, 1, 4, 3, 1, 3]]


def test_annotations_are_exactly_the_rendered_masks(data: SyntheticPeople) -> None:
    for split in ("train", "val"):
        coco = COCO(str(data.annotation_file(split)))
        for index, image_id in enumerate(sorted(coco.imgs)):
            scene = synthetic_scene(3, split, index)
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
            assert len(annotations) == scene.people == scene.instances.max()
            covered = np.zeros(scene.instances.shape, int)
            for number, annotation in enumerate(annotations, start=1):
                mask = coco.annToMask(annotation).astype(bool)
                assert (mask == (scene.instances == number)).all()
                assert annotation["bbox"] == bounding_box(mask)
                assert annotation["area"] == mask.sum() >= 100
                assert (annotation["iscrowd"], annotation["category_id"]) == (0, 1)
                covered += mask
            assert covered.max() <= 1


def test_bounding_box_is_tight() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 11] = mask[6, 7:15] = True
    assert bounding_box(mask) == [7, 4, 8, 5]


def test_pictures_are_whole_and_named_as_in_coco(data: SyntheticPeople) -> None:
    names = set()
    for split in ("train", "val"):
        content = json.loads(data.annotation_file(split).read_text())
        assert content["categories"] == [{"id": 1, "name": "person", "supercategory": "person"}]
        for image in content["images"]:
            picture = cv2.imread(str(data.images_dir(split) / image["file_name"]))
            assert picture is not None
            assert picture.shape == (image["height"], image["width"], 3)
            assert image["file_name"] == f"{image['id']:012d}.jpg"
            names.add(image["file_name"])
    assert len(names) == TRAIN + VAL


def test_no_picture_is_in_both_splits_or_twice(data: SyntheticPeople) -> None:
    pictures = [p.read_bytes() for split in ("train", "val") for p in data.images_dir(split).iterdir()]
    assert len(set(pictures)) == TRAIN + VAL
    assert (synthetic_scene(0, "train", 0).image.tobytes()) != synthetic_scene(
        0, "extractor", 0
    ).image.tobytes()


def test_val_has_pictures_with_every_number_of_people(data: SyntheticPeople) -> None:
    content = json.loads(data.annotation_file("val").read_text())
    per_image = Counter(Counter(a["image_id"] for a in content["annotations"]).values())
    assert all(per_image[people] >= 5 for people in (1, 2, 3, 5)), per_image


def test_people_overlap_and_are_cut_off(data: SyntheticPeople) -> None:
    content = json.loads(data.annotation_file("val").read_text())
    images = {image["id"]: image for image in content["images"]}
    boxes = [(a["image_id"], *a["bbox"]) for a in content["annotations"]]
    overlapping = cut = 0
    for i, x, y, w, h in boxes:
        others = [b for b in boxes if b[0] == i and b[1:] != (x, y, w, h)]
        overlapping += any(x < X + W and x + w > X and y < Y + H and y + h > Y for _, X, Y, W, H in others)
        image = images[i]
        cut += x == 0 or y == 0 or x + w == image["width"] or y + h == image["height"]
    assert overlapping > 0.4 * len(boxes)
    assert cut > 0.05 * len(boxes)


def test_a_picture_depends_on_seed_split_and_index_only(data: SyntheticPeople, tmp_path: Path) -> None:
    again = SyntheticPeople(tmp_path, 3, 2, seed=3)
    again.ensure()
    for path in [*again.images_dir("train").iterdir(), *again.images_dir("val").iterdir()]:
        assert path.read_bytes() == (Path(data.root) / path.relative_to(tmp_path)).read_bytes()
    other = synthetic_scene(4, "train", 0).image
    assert (
        other.shape != synthetic_scene(3, "train", 0).image.shape
        or (other != synthetic_scene(3, "train", 0).image).any()
    )


def test_ensure_does_nothing_when_the_data_is_there(tmp_path: Path) -> None:
    data = SyntheticPeople(tmp_path, 3, 2)
    data.ensure()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    SyntheticPeople(tmp_path, 3, 2).ensure()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times


def test_ensure_repairs_an_interrupted_run(tmp_path: Path) -> None:
    data = SyntheticPeople(tmp_path, 3, 2)
    data.ensure()
    whole = digests(data)
    data.annotation_file("train").unlink()
    (data.images_dir("train") / "000000000002.jpg").write_bytes(b"half an image")
    (data.images_dir("val") / "000001000001.jpg").unlink()
    data.ensure()
    assert digests(data) == whole


def test_other_parameters_make_the_data_anew(tmp_path: Path) -> None:
    SyntheticPeople(tmp_path / "a", 3, 2).ensure()
    smaller = SyntheticPeople(tmp_path / "a", 2, 1, seed=1)
    users = smaller.images_dir("train") / "000000000139.jpg"
    users.write_bytes(b"mine")
    smaller.ensure()
    assert users.read_bytes() == b"mine"
    users.unlink()
    fresh = SyntheticPeople(tmp_path / "b", 2, 1, seed=1)
    fresh.ensure()
    assert digests(smaller) == digests(fresh)


def test_foreign_pictures_are_never_touched(tmp_path: Path) -> None:
    foreign = tmp_path / "images" / "train2017" / "000000000001.jpg"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(UserError, match="not created by roiseg"):
        SyntheticPeople(tmp_path, 2, 1).ensure()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [foreign]


def test_annotations_of_the_users_in_its_folder_stay(tmp_path: Path) -> None:
    data = SyntheticPeople(tmp_path, 1, 1)
    data.ensure()
    data.annotation_file("train").write_text('{"info": {"description": "mine"}, "images": []}')
    with pytest.raises(UserError, match="did not create"):
        data.ensure()
    assert "mine" in data.annotation_file("train").read_text()


def test_command_makes_the_data_and_tells_about_it(tmp_path: Path) -> None:
    arguments = [f"root={tmp_path}/made", "train_images=2", "val_images=1"]
    run = subprocess.run(
        [sys.executable, "-m", "roiseg.demo", "make=[data]", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]), COLUMNS="200"),
        check=True,
    )
    assert "train" in run.stdout
    assert len(list((tmp_path / "made/images/train2017").iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def ensure_at_once(root, start, drawn):
    drawing = dataset.synthetic_scene
    dataset.synthetic_scene = lambda *what: (drawn.put(what), drawing(*what))[1]
    start.wait(PATIENCE)
    data = SyntheticPeople(root, 3, 2)
    data.ensure()
    json.loads(data.annotation_file("train").read_text())


def test_processes_that_find_nothing_at_once_draw_each_picture_once(tmp_path: Path) -> None:
    start, drawn = CHILDREN.Barrier(3), CHILDREN.SimpleQueue()
    processes = [
        CHILDREN.Process(target=ensure_at_once, args=(tmp_path / "data", start, drawn)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    found = []
    while not drawn.empty():
        found.append(drawn.get())
    assert sorted(found) == sorted(
        (0, split, n) for split, count in (("train", 3), ("val", 2)) for n in range(count)
    )
    alone = SyntheticPeople(tmp_path / "alone", 3, 2)
    alone.ensure()
    assert digests(alone) == digests(SyntheticPeople(tmp_path / "data", 3, 2))


def test_another_process_that_is_just_starting_is_no_stranger(tmp_path: Path, monkeypatch: Any) -> None:
    there = Path.iterdir

    def meanwhile(folder):
        (tmp_path / dataset.MARKER).write_text(json.dumps(dataset._MARK))  # the other has come as far as this
        return there(folder)

    (tmp_path / "images/train2017").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", meanwhile)
    SyntheticPeople(tmp_path, 1, 1).ensure()
