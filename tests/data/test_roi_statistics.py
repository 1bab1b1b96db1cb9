import numpy as np
import pytest
from helpers import ellipse, rectangle, uncompressed_rle, write_coco
from hypothesis import given
from hypothesis import strategies as st

from roiseg.data import roi_statistics
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.roi_statistics import CLASSES, measure_rois
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.transform import Transform


def one_by_one(annotations, least, grid):
    """Counts [R, 4], nearest IoU [R] and sides [R, 2], image by image and ROI by ROI from drawn targets."""
    counts, nearest, sides = [], [], []
    for image in range(len(annotations)):
        target_index = annotations.eligible(image, least)
        boxes, crowd = annotations.pixel_boxes(image), annotations.crowd[annotations.instances(image)]
        spec = TargetSpec("roi", (grid, grid), 3, annotations.size(image))
        outlines, identity = annotations.outlines(image), Transform(1.0, 1.0, 0.0, 0.0)
        for target in rasterize_targets(spec, outlines, crowd, identity, boxes[target_index], target_index):
            counts.append([int((target == value).sum()) for value in CLASSES.values()])
        for owner in target_index:
            others = [i for i in range(len(boxes)) if i != owner and not crowd[i]]
            ious = [float(box_ops.iou(boxes[[owner]], boxes[[i]])[0, 0]) for i in others]
            nearest.append(max(ious, default=0.0))
            sides.append(boxes[owner, 2:] - boxes[owner, :2])
    return np.array(counts), np.array(nearest), np.array(sides)


def check(annotations, least, grid):
    found = measure_rois(annotations, least, grid)
    counts, nearest, sides = one_by_one(annotations, least, grid)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.nearest_iou, nearest, atol=1e-6)
    np.testing.assert_array_equal(found.sides, sides)
    assert found.images == sum(annotations.eligible_counts(least) > 0)


@pytest.mark.realdata
@pytest.mark.parametrize(("grid", "least"), [(56, 16), (112, 1)])
def test_real_persons(realdata, grid, least):
    path = realdata / "coco128_person/annotations/instances_train2017_person_only_no_crowd.json"
    check(load_annotations(path), least, grid)


@st.composite
def outlines(draw):
    """An instance of `write_coco` in one of three images of odd sizes: polygons or RLE, crowd or not."""
    file, (height, width) = draw(st.sampled_from(list(SIZES.items())))
    x, y = draw(st.floats(-9, width - 9)), draw(st.floats(-9, height - 9))
    w, h = draw(st.floats(8, width)), draw(st.floats(8, height))
    kind = draw(st.sampled_from(["rectangle", "ellipse", "two", "rle"]))
    if kind == "rle":
        mask = np.zeros((height, width), np.uint8)
        mask[max(0, int(y)) : int(y + h) + 1, max(0, int(x)) : int(x + w) + 1] = 1
        mask[::3] = 0
        outline = uncompressed_rle(mask)
    elif kind == "two":
        outline = [rectangle(x, y, x + w / 2, y + h), ellipse(x + w, y + h / 2, w / 3, h / 2)]
    else:
        outline = rectangle(x, y, x + w, y + h) if kind == "rectangle" else ellipse(x, y, w / 2, h / 2)
    box = [max(x, 0), max(y, 0), w, h]  # need not fit the outline
    return {"file": file, "segmentation": outline, "bbox": box, "iscrowd": draw(st.integers(0, 3)) // 3}


SIZES = {"a.png": (61, 83), "b.png": (97, 45), "c.png": (50, 50)}


GRIDS = st.sampled_from([8, 56, 63, 64, 65, 200])


@given(st.lists(outlines(), min_size=1, max_size=9), st.sampled_from([1, 1000, 1 << 17]), GRIDS)
def test_all_at_once_is_what_it_is_one_by_one(tmp_path_factory, instances, at_once, grid):
    instances.append({"file": "b.png", "segmentation": rectangle(3.3, 4.4, 30.1, 40.7)})
    files = write_coco(tmp_path_factory.mktemp("set"), SIZES, instances)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_statistics, "_CHUNK", at_once)
        check(load_annotations(files.json), 8, grid)


def test_no_roi_at_all(coco_set):
    found = measure_rois(load_annotations(coco_set.json), 1000, 56)
    assert found.images == len(found.counts) == len(found.sides) == len(found.nearest_iou) == 0
