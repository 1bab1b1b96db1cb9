"""COCO, LabelMe, YOLO and crops: read back by others' readers."""

import base64
import json
from io import BytesIO

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from writer_cases import BOXES, SIZE, Pictures, disc, masks, nobody, result, write

from roiseg.config.entry import CONF_DIR
from roiseg.data.annotation_loading import load_annotations
from roiseg.inference.writers.annotations import CocoWriter, LabelmeWriter, YoloSegWriter, join_outlines
from roiseg.inference.writers.crops import CropsWriter, expand_box


def test_coco_results_are_what_pycocotools_reads(tmp_path):
    path = write(CocoWriter(category_id=3), tmp_path, [result(), nobody(), result(number=2, key="z")])
    records = json.loads(path.read_text())
    assert [record["image_id"] for record in records] == [100] * 4 + [102] * 4
    assert {record["category_id"] for record in records} == {3}
    for record, mask, box in zip(records, [*masks(), *masks()], [*BOXES, *BOXES], strict=True):
        assert np.array_equal(coco_mask.decode(record["segmentation"]).astype(bool), mask)
        x, y, width, height = record["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), abs=0.01)
    images = json.loads((tmp_path / "coco_images.json").read_text())
    assert images[1] == {"id": 101, "file_name": "x/empty.jpg", "width": 80, "height": 60}
    assert [image["id"] for image in images] == [100, 101, 102]
    truth = COCO()
    truth.dataset = {"images": images, "categories": [{"id": 3, "name": "person"}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(path)).getAnnIds(imgIds=[100])) == 4
    assert json.loads(write(CocoWriter(), tmp_path / "nobody", [nobody()]).read_text()) == []


def test_coco_annotations_can_be_trained_on(tmp_path):
    write(CocoWriter(3, label="Mädchen"), tmp_path, [result(), nobody(), result(number=2, key="z")])
    path = tmp_path / "coco_annotations.json"
    read = load_annotations(path, 3)
    assert read.image_ids.tolist() == [100, 101, 102]
    truth = COCO(str(path))
    assert truth.loadCats([3]) == [{"id": 3, "name": "Mädchen"}]
    seen = [mask for mask in masks() if mask.any()]
    for number in (0, 2):
        outlines = read.outlines(number)
        own = truth.loadAnns(truth.getAnnIds(imgIds=[100 + number]))
        assert len(outlines) == len(own) == len(seen)
        for place, (record, mask) in enumerate(zip(own, seen, strict=True)):
            assert record["area"] == mask.sum()
            assert np.array_equal(truth.annToMask(record), mask)
            assert np.array_equal(coco_mask.decode(outlines.rle(place)), mask)
    write(CocoWriter(), tmp_path / "nobody", [nobody()])
    content = json.loads((tmp_path / "nobody/coco_annotations.json").read_text())
    assert content["annotations"] == content["categories"] == []
    assert len(content["images"]) == 1


def test_after_an_error_no_json_is_left(tmp_path):
    for writer in (CocoWriter(), CropsWriter()):
        with pytest.raises(RuntimeError), writer.open(tmp_path, Pictures()) as take:  # noqa: PT012
            take(result())
            raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*") if path.suffix not in (".png", "")] == []


def filled(shapes):
    """Mask [H, W] of LabelMe's shapes, drawn by Pillow as LabelMe draws them."""
    canvas = Image.new("1", (SIZE[1], SIZE[0]))
    for shape in shapes:
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], fill=1, outline=1)
    return np.array(canvas)


def test_labelme_draws_the_masks_with_holes_filled_and_holds_the_frame_of_a_video(tmp_path):
    write(LabelmeWriter(label="human"), tmp_path, [result(path=tmp_path / "pictures/a.jpg"), nobody()])
    content = json.loads((tmp_path / "labelme/x/a.json").read_text())
    assert (content["imageHeight"], content["imageWidth"]) == SIZE
    assert (tmp_path / "labelme/x" / content["imagePath"]).resolve() == tmp_path / "pictures/a.jpg"
    assert content["imageData"] is None
    shapes = content["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 2, 3, 3]  # two pieces; nobody has none
    assert {(shape["label"], shape["shape_type"]) for shape in shapes} == {("human", "polygon")}
    first, ring, two, _ = masks()
    ring[20:41, 30:51] |= True  # the hole lies inside
    by_group = {number: filled([s for s in shapes if s["group_id"] == number]) for number in (1, 2, 3)}
    assert np.array_equal(by_group[1], first) and np.array_equal(by_group[3], two)
    assert not (by_group[2] & ~ring).any() and by_group[2][30, 40]
    assert json.loads((tmp_path / "labelme/x/empty.json").read_text())["shapes"] == []
    one = result(path=None)  # a frame of a video
    write(LabelmeWriter(), tmp_path, [one])
    content = json.loads((tmp_path / "labelme/x/a.json").read_text())
    picture = np.array(Image.open(BytesIO(base64.b64decode(content["imageData"]))))
    assert np.abs(picture.astype(int) - one.image).mean() < 3


def test_crops_hold_the_grown_boxes_and_are_listed(tmp_path):
    one = result()
    path = write(CropsWriter(), tmp_path, [one, nobody()])
    records = json.loads(path.read_text())
    assert [record["instance"] for record in records] == [1, 2, 3, 4]
    for record, box in zip(records, BOXES.astype(float), strict=True):
        x1, y1, x2, y2 = record["crop"]
        crop = np.array(Image.open(tmp_path / "crops" / record["file"]))
        assert np.array_equal(crop, one.image[y1:y2, x1:x2])
        assert record["box"] == pytest.approx(box.tolist())
        assert record["box_in_crop"] == pytest.approx((box - [x1, y1, x1, y1]).tolist())
        assert (record["image"], record["image_id"], record["label"]) == ("x/a.jpg", 100, "person")
        assert min(crop.shape[:2]) >= 16
    outside = write(CropsWriter(), tmp_path, [result([np.zeros(SIZE, bool)], [[90, 5, 99, 9]])])
    assert json.loads(outside.read_text()) == []
    x1, y1, x2, y2 = records[1]["crop"]  # 31 x 31, far from the border
    assert (x1, y1) == (int(40.5 - 18.6), int(30.5 - 18.6))
    assert (x2, y2) == (int(40.5 + 18.6) + 1, int(30.5 + 18.6) + 1)


@given(
    st.tuples(st.floats(-50, 150), st.floats(-50, 150), st.floats(0.5, 120), st.floats(0.5, 120)),
    st.floats(1, 3), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90),
)  # fmt: skip
def test_a_grown_box_holds_the_box_and_has_its_size(corner, ratio, min_size, height, width):
    x, y, w, h = corner
    x1, y1, x2, y2 = expand_box(np.array([x, y, x + w, y + h], np.float32), ratio, min_size, (height, width))
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        assert x2 == x1 or y2 == y1
        return
    for first, last, low, side, length in ((x1, x2, x, w, width), (y1, y2, y, h, height)):
        assert 0 <= first < last <= length
        assert last - first >= min(min_size, length)
        assert first <= max(low, 0) + 1e-3
        assert last >= min(low + side, length) - 1e-3
        assert last - first <= max(side * ratio + 2, min_size)


def drawn(line):
    """Class and mask [H, W] of a line, by a reader that truncates as ultralytics' does."""
    words = line.split()
    points = np.array(words[1:], float).reshape(-1, 2) * (SIZE[1], SIZE[0])
    return int(words[0]), drawn_by_opencv([points])


def drawn_by_opencv(outlines):
    canvas = np.zeros(SIZE, np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [outline.astype(np.int32)], 1)
    return canvas.astype(bool)


def contours_of(mask):
    return cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]


def test_a_line_an_instance_that_fills_to_its_mask(tmp_path):
    write(YoloSegWriter(class_id=5), tmp_path, [result(), nobody()])
    lines = (tmp_path / "yolo_seg/x/a.txt").read_text().splitlines()
    assert len(lines) == 3  # who has no pixel has no line
    first, ring, two, _ = masks()
    assert drawn(lines[0])[0] == 5
    assert np.array_equal(drawn(lines[0])[1], first)
    assert np.array_equal(drawn(lines[1])[1], drawn_by_opencv(contours_of(ring)))  # its hole, too
    bridge = drawn(lines[2])[1] & ~two
    assert not (two & ~drawn(lines[2])[1]).any()
    assert 0 < bridge.sum() <= 12  # a pixel wide, from one disc to the other
    assert (tmp_path / "yolo_seg/x/empty.txt").read_text() == ""


@given(st.lists(st.tuples(st.integers(5, 75), st.integers(5, 55), st.integers(2, 9)), min_size=1, max_size=6))
def test_joined_pieces_fill_to_all_of_them(discs):
    mask = np.any([disc(*one) for one in discs], axis=0)
    pieces = [contour.reshape(-1, 2).astype(np.float32) for contour in contours_of(mask)]
    outline = join_outlines(pieces)
    got, whole = drawn_by_opencv([outline]), drawn_by_opencv(pieces)
    assert not (whole & ~got).any()
    lines = np.zeros(SIZE, np.uint8)
    cv2.polylines(lines, [outline.astype(np.int32)], True, 1)
    assert not (got & ~whole & ~lines.astype(bool)).any()  # nothing but bridges is added
    assert {tuple(p) for p in outline.tolist()} == {tuple(p) for piece in pieces for p in piece.tolist()}


CHOICES = sorted(path.stem for path in (CONF_DIR / "writers").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_writes_where_it_says(tmp_path, choice):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        cfg = compose("predict", overrides=[f"writers=[{choice}]", "output_dir=x"])
    writers = instantiate(cfg.writers, _convert_="all")
    assert set(writers) == (set(CHOICES) - {"all"} if choice == "all" else {choice})
    for writer in writers.values():
        assert write(writer, tmp_path, [result(), nobody()]).exists()
