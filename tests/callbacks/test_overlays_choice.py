from __future__ import annotations

import cv2
import pytest
from helpers import rectangle, write_coco
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import fit

from roiseg.callbacks.overlays import ValidationOverlays, choose_items
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.dataset import RoiDataset
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox


def dataset(coco):
    spec = TargetSpec("roi", (14, 14), 3, (64, 64))
    return RoiDataset(
        load_annotations(coco.json, 1), coco.images, Views(Letterbox((64, 64)), Augment()), spec
    )


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Images with 1, 2, 2, 3, 5 and 5 persons that can be ROIs, one without, and some too small to count."""
    counts = {"one.jpg": 1, "two.jpg": 2, "two_more.jpg": 2, "none.jpg": 0, "three.jpg": 3, "five.jpg": 5,
              "sub/five_more.jpg": 5}  # fmt: skip
    instances = [
        {"file": file, "segmentation": rectangle(2 + 20 * n, 10, 20 + 20 * n, 40)}
        for file, count in counts.items()
        for n in range(count)
    ]
    instances += [
        {"file": "one.jpg", "segmentation": rectangle(30 + 8 * n, 10, 36 + 8 * n, 20)} for n in range(5)
    ]
    folder = tmp_path_factory.mktemp("crowd")
    return dataset(write_coco(folder, dict.fromkeys(counts, (50, 110)), instances))


def choose(crowd, images):
    names = [str(crowd.annotations.file_names[i]) for i in crowd.images]
    return [names[item] for item in choose_items(crowd, images)]


def test_named_files_are_picked_whatever_their_person_count(crowd):
    assert choose(crowd, {"three.jpg": 1, "one.jpg": 9}) == ["three.jpg", "one.jpg"]


def test_named_files_are_found_in_folders_too(crowd):
    assert choose(crowd, {"five_more.jpg": 5}) == ["sub/five_more.jpg"]


def test_the_first_image_with_as_many_persons_stands_in(crowd):
    images = {"a.jpg": 1, "b.jpg": 2, "c.jpg": 3, "d.jpg": 5}
    assert choose(crowd, images) == ["one.jpg", "two.jpg", "three.jpg", "five.jpg"]


def test_persons_too_small_for_a_roi_do_not_count(crowd):
    assert choose(crowd, {"a.jpg": 6}) == ["five.jpg"]  # one.jpg has six outlines, one of them large


@pytest.mark.parametrize(("persons", "nearest"), [(4, "three.jpg"), (100, "five.jpg"), (0, "one.jpg")])
def test_the_nearest_count_stands_in_where_none_is_equal(persons, nearest, crowd):
    assert choose(crowd, {"a.jpg": persons}) == [nearest]


def test_two_stand_ins_of_the_same_count_are_two_images(crowd):
    assert choose(crowd, {"a.jpg": 2, "b.jpg": 2, "c.jpg": 2}) == ["two.jpg", "two_more.jpg", "one.jpg"]


def test_a_named_file_does_not_stand_in_for_another_before_it(crowd):
    assert choose(crowd, {"absent.jpg": 1, "one.jpg": 1}) == ["two.jpg", "one.jpg"]


def test_no_image_is_drawn_twice_when_more_are_asked_for_than_there_are(crowd):
    chosen = choose(crowd, {f"{n}.jpg": n for n in range(20)})
    assert sorted(chosen) == sorted(set(chosen))
    assert len(chosen) == 6


def test_images_without_a_roi_are_not_drawn(crowd):
    assert "none.jpg" not in choose(crowd, {"none.jpg": 0})


def test_nothing_asked_for_is_nothing(crowd):
    assert choose(crowd, {}) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_leaves_one_picture_an_epoch_named_by_it(precision, coco_set, onnx_file, tmp_path):
    overlays = ValidationOverlays(tmp_path / "overlays", {"a.jpg": 2, "absent.jpg": 3}, row_height=80)
    fit(coco_set, onnx_file, tmp_path, [overlays], precision=precision, num_sanity_val_steps=1,
        enable_checkpointing=False)  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "overlays").glob("[!.]*"))
    assert files == [f"validation_all_images_epoch_{epoch:04d}.png" for epoch in (1, 2)]
    assert overlays.last == tmp_path / "overlays" / files[-1]
    picture = cv2.imread(str(overlays.last))
    assert picture.shape[0] > 2 * 80


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("most", "every", "shown"), [(2, 1, [1, 2, 4, 8]), (3, 1, [1, 2, 3, 4, 6, 8]), (2, 3, [3, 6]), (0, 1, [])]
)
def test_tensorboard_gets_fewer_and_fewer_pictures(coco_set, onnx_file, tmp_path, most, every, shown):
    overlays = ValidationOverlays(tmp_path, {"a.jpg": 1}, row_height=32, in_tensorboard=most)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(coco_set, onnx_file, tmp_path, [overlays], max_epochs=9, check_val_every_n_epoch=every, logger=logger)
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    tags = found.Tags()["images"]
    assert [event.step for tag in tags for event in found.Images(tag)] == shown
    assert len(list(tmp_path.glob("*.png"))) == 9 // every
