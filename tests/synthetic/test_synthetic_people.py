import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from child_processes import CHILDREN, PATIENCE
from helpers import mask_bounds
from pycocotools.coco import COCO

from roiseg.common.errors import UserError
from roiseg.synthetic import SyntheticPeople, dataset, synthetic_scene

TRAIN, VAL = 4, 24


def made(*given, **options):
    data = SyntheticPeople(*given, **options)
    data.ensure()
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return made(tmp_path_factory.mktemp("synthetic"), TRAIN, VAL, seed=3)


def digests(data):
    files = [p for p in Path(data.root).rglob("*") if p.is_file()]
    return {str(p.relative_to(data.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_annotations_are_exactly_the_rendered_masks_and_images_are_whole_and_all_different(data):
    contents = set()
    for split in ("train", "val"):
        coco = COCO(str(data.annotation_file(split)))
        assert coco.dataset["categories"] == [{"id": 1, "name": "person", "supercategory": "person"}]
        for index, (image_id, image) in enumerate(sorted(coco.imgs.items())):
            scene = synthetic_scene(3, split, index)
            path = data.images_dir(split) / f"{image_id:012d}.jpg"  # as in COCO
            assert (image["file_name"], image["height"]) == (path.name, len(scene.instances))
            assert cv2.imread(str(path)).shape == (*scene.instances.shape, 3)
            contents.add(path.read_bytes())
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
            assert len(annotations) == scene.people == scene.instances.max()
            covered = np.zeros(scene.instances.shape, int)
            for number, annotation in enumerate(annotations, start=1):
                mask = coco.annToMask(annotation).astype(bool)
                assert (mask == (scene.instances == number)).all()
                x1, y1, x2, y2 = mask_bounds(mask)
                assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
                assert annotation["area"] == mask.sum() >= 100
                assert (annotation["iscrowd"], annotation["category_id"]) == (0, 1)
                covered += mask
            assert covered.max() <= 1
    assert len(contents) == TRAIN + VAL


def test_people_overlap_are_cut_off_and_come_in_every_number(data):
    content = json.loads(data.annotation_file("val").read_text())
    per_image = Counter(Counter(a["image_id"] for a in content["annotations"]).values())
    assert all(per_image[people] >= 2 for people in (1, 2, 3, 5)), per_image
    images = {image["id"]: image for image in content["images"]}
    boxes = [(a["image_id"], *a["bbox"]) for a in content["annotations"]]
    overlapping = cut = 0
    for i, x, y, w, h in boxes:
        others = [b for b in boxes if b[0] == i and b[1:] != (x, y, w, h)]
        overlapping += any(x < X + W and x + w > X and y < Y + H and y + h > Y for _, X, Y, W, H in others)
        cut += x == 0 or y == 0 or x + w == images[i]["width"] or y + h == images[i]["height"]
    assert overlapping > 0.4 * len(boxes)
    assert cut > 0.05 * len(boxes)


def test_crowded_people_overlap_more_and_each_stays_visible():
    shares = {}
    for crowding in (0.0, 1.0):
        found = []
        for index in range(8):
            scene = synthetic_scene(3, "train", index, crowding)
            for person in range(1, scene.people + 1):
                x1, y1, x2, y2 = mask_bounds(scene.instances == person)
                inside = scene.instances[y1:y2, x1:x2]
                found.append(np.mean((inside != 0) & (inside != person)))
        shares[crowding] = np.mean(np.array(found) > 0.1)
    assert shares[1.0] > shares[0.0] + 0.2
    alone, usual = synthetic_scene(3, "train", 0, 0.0), synthetic_scene(3, "train", 0)
    assert alone.image.tobytes() == usual.image.tobytes()


def test_an_image_depends_on_seed_split_and_index_only(data, tmp_path):
    again = made(tmp_path, 3, 2, seed=3)
    whole = digests(data)
    assert all(whole[name] == digest for name, digest in digests(again).items() if name.endswith(".jpg"))
    scenes = [(3, "train", 0), (4, "train", 0), (3, "extractor", 0), (3, "train", 1)]
    assert len({synthetic_scene(*scene).image.tobytes() for scene in scenes}) == 4


def test_ensure_repairs_an_interrupted_run_and_leaves_a_whole_one_alone(tmp_path):
    data = made(tmp_path, 3, 2)
    whole, times = digests(data), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    made(tmp_path, 3, 2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times
    data.annotation_file("train").unlink()
    (data.images_dir("train") / "000000000002.jpg").unlink()
    (data.images_dir("val") / "000001000001.jpg").unlink()
    data.ensure()
    assert digests(data) == whole


def test_other_parameters_make_the_data_anew(tmp_path):
    made(tmp_path / "a", 3, 2, crowding=0.5)
    smaller = SyntheticPeople(tmp_path / "a", 2, 1, seed=1)
    users = smaller.images_dir("train") / "000000000139.jpg"
    users.write_bytes(b"mine")
    smaller.ensure()
    assert users.read_bytes() == b"mine"
    users.unlink()
    assert digests(smaller) == digests(made(tmp_path / "b", 2, 1, seed=1))


def test_images_and_annotations_of_the_users_are_never_touched(tmp_path):
    foreign = tmp_path / "a/images/train2017/000000000001.jpg"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(UserError, match="not created by roiseg"):
        SyntheticPeople(tmp_path / "a", 2, 1).ensure()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [foreign]
    data = made(tmp_path / "b", 1, 1)
    data.annotation_file("train").write_text('{"info": {"description": "mine"}, "images": []}')
    with pytest.raises(UserError, match="did not write"):
        data.ensure()
    assert "mine" in data.annotation_file("train").read_text()


@pytest.mark.parametrize(
    "name", ["images/train2017/000000000001.jpg", "annotations/instances_val2017_person_only_no_crowd.json"]
)
@pytest.mark.parametrize("change", ["replaced", "edited"])
def test_a_file_that_the_user_changed_is_not_replaced_by_other_data(tmp_path, name, change):
    SyntheticPeople(tmp_path, 2, 1).ensure()
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"person", b"people") + b" " if change == "edited" else b"{}")
    if name.endswith("json") and change == "edited":
        path.write_bytes(whole.replace(b'"iscrowd":0', b'"iscrowd":1'))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=path.name):
        SyntheticPeople(tmp_path, 2, 1, seed=1).ensure()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    path.unlink()
    SyntheticPeople(tmp_path, 2, 1, seed=1).ensure()
    assert path.read_bytes() != before[path]


@pytest.mark.parametrize("name", [".lock", "synthetic.json", "images", "annotations", "images/train2017"])
def test_a_file_of_the_users_in_the_way_of_the_data_stays(tmp_path, name):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=re.escape(str(path).removesuffix("/train2017"))):
        SyntheticPeople(tmp_path / "data", 1, 1).ensure()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_bytes() == b"mine"


def ensure_at_once(root, start, drawn):
    drawing = dataset.synthetic_scene
    dataset.synthetic_scene = lambda *what: (drawn.put(what), drawing(*what))[1]
    start.wait(PATIENCE)
    data = made(root, 3, 2)
    json.loads(data.annotation_file("train").read_text())


@pytest.mark.slow
def test_processes_that_find_nothing_at_once_draw_each_image_once(tmp_path):
    start, drawn = CHILDREN.Barrier(3), CHILDREN.SimpleQueue()
    given = tmp_path / "data", start, drawn
    processes = [CHILDREN.Process(target=ensure_at_once, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    found = []
    while not drawn.empty():
        found.append(drawn.get())
    images = [("train", 0), ("train", 1), ("train", 2), ("val", 0), ("val", 1)]
    assert sorted(found) == [(0, *image, 0.0) for image in images]
    assert digests(made(tmp_path / "alone", 3, 2)) == digests(SyntheticPeople(tmp_path / "data", 3, 2))


def test_another_process_that_is_just_starting_is_no_stranger(tmp_path, monkeypatch):
    there = Path.iterdir

    def meanwhile(folder):
        (tmp_path / dataset.MARKER).write_text(json.dumps(dataset._MARK))  # the other has come as far as this
        return there(folder)

    (tmp_path / "images/train2017").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", meanwhile)
    SyntheticPeople(tmp_path, 1, 1).ensure()


def test_another_process_that_marks_the_folder_first_is_no_stranger(tmp_path, monkeypatch):
    is_marked = SyntheticPeople._is_marked

    def meanwhile(data):
        found = is_marked(data)
        monkeypatch.setattr(SyntheticPeople, "_is_marked", is_marked)
        dataset.write_json(tmp_path / dataset.MARKER, dataset._MARK)
        return found

    monkeypatch.setattr(SyntheticPeople, "_is_marked", meanwhile)
    SyntheticPeople(tmp_path, 1, 1).ensure()
