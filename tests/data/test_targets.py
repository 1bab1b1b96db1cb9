import json
import tracemalloc

import numpy as np
import pytest
from helpers import ellipse, hole_rle, inside_polygon, segmentation_mask, write_coco

from roiseg.common.classes import IGNORE
from roiseg.data import targets as targets_module
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.transform import Letterbox, Transform

# --- an independent reference: 9 x 9 points a cell (odd: no ties), each looked up in original pixels ---


def inside(record, size, xs, ys):
    """Is each point of the raster (original pixels) within the instance?"""
    outline = record["segmentation"]
    if isinstance(outline, list):
        return np.any([inside_polygon(part, xs, ys) for part in outline], axis=0)
    padded = np.pad(segmentation_mask(outline, *size) > 0, 1)  # nothing is outside of the image
    rows, columns = (np.clip(np.floor(v).astype(int), -1, n) + 1 for v, n in ((ys, size[0]), (xs, size[1])))
    return padded[np.ix_(rows, columns)]


def reference(records, size, transform, window, grid, owner, num_classes, samples=9):
    """Labels of a `grid` stretched over `window` (input pixels); most of a cell decides."""

    def cover(record):
        steps = [(np.arange(n * samples) + 0.5) / (n * samples) for n in grid]
        ys = (window[1] + steps[0] * (window[3] - window[1]) - transform.shift_y) / transform.scale_y
        xs = (window[0] + steps[1] * (window[2] - window[0]) - transform.shift_x) / transform.scale_x
        hits = inside(record, size, xs, ys)
        return hits.reshape(grid[0], samples, grid[1], samples).mean(axis=(1, 3)) > 0.5

    labels = np.zeros(grid, np.uint8)
    others = [record for n, record in enumerate(records) if n != owner]
    for record in others:
        if record["iscrowd"]:
            labels[cover(record)] = 255
    for record in others:
        if not record["iscrowd"]:
            labels[cover(record)] = 2 if num_classes == 3 else 0
    labels[cover(records[owner])] = 1
    return labels


def compare_set(json_file, spec, letterbox, mirror=False, samples=9):
    """Share of target pixels that differ from the reference, over all eligible ROIs of a set."""
    annotations = load_annotations(json_file)
    content = json.loads(json_file.read_text())
    rng = np.random.default_rng(0)
    wrong = total = 0
    for i in range(len(annotations)):
        instances, size = annotations.instances(i), annotations.size(i)
        by_id = {record["id"]: record for record in content["annotations"]}
        records = [by_id[int(n)] for n in annotations.ids[instances]]
        target_index = annotations.eligible(i, 16)
        transform = letterbox.fit(*size)
        if mirror:
            transform = mirrored(transform, letterbox)
        boxes = transform.boxes(annotations.pixel_boxes(i))
        rois = box_ops.jitter(boxes[target_index], rng, 0.1, 0.1)
        crowd = annotations.crowd[instances]
        targets = rasterize_targets(spec, annotations.outlines(i), crowd, transform, rois, target_index)
        assert targets.shape == (len(target_index), *spec.size)
        assert targets.dtype == np.uint8
        for target, roi, owner in zip(targets, rois.astype(float), target_index, strict=True):
            window = roi if spec.frame == "roi" else (0, 0, spec.image_size[1], spec.image_size[0])
            want = reference(records, size, transform, window, spec.size, owner, spec.num_classes, samples)
            wrong += int((target != want).sum())
            total += want.size
    assert total
    return wrong / total


def mirrored(transform, letterbox):
    return Transform(
        -transform.scale_x, transform.scale_y, letterbox.size[1] - transform.shift_x, transform.shift_y
    )


SPECS = {
    "56x56": TargetSpec("roi", (56, 56), 3, (128, 128)),
    "a tall grid": TargetSpec("roi", (64, 24), 3, (128, 128)),
    "two classes": TargetSpec("roi", (28, 28), 2, (128, 128)),
    "the image at stride 2": TargetSpec("image", (64, 64), 3, (128, 128)),
    "the image at stride 4, two classes": TargetSpec("image", (32, 32), 2, (128, 128)),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("mirror", [False, True])
def test_targets_equal_the_supersampled_reference(coco_set, spec, mirror):
    assert compare_set(coco_set.json, spec, Letterbox(spec.image_size), mirror) <= 0.006


@pytest.mark.parametrize(
    "letterbox",
    [Letterbox((96, 160)), Letterbox((160, 96), "topleft"), Letterbox((120, 72), keep_aspect=False)],
    ids=["wide", "tall", "stretched"],
)
def test_targets_follow_any_letterbox(coco_set, letterbox):
    spec = TargetSpec("roi", (28, 20), 3, letterbox.size)
    assert compare_set(coco_set.json, spec, letterbox) <= 0.006


@pytest.mark.realdata
@pytest.mark.parametrize(("frame", "grid"), [("roi", (56, 56)), ("image", (77, 77))])
def test_targets_of_real_persons_are_exact(realdata, frame, grid):
    """A cell is what lies under its centre; 77 does not divide 640, so no centre falls on an outline."""
    path = realdata / "coco128_person/annotations/instances_train2017_person_only_no_crowd.json"
    spec = TargetSpec(frame, grid, 3, (640, 640))
    assert compare_set(path, spec, Letterbox((640, 640)), samples=1) < 1e-5


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """120 persons on one image, every tenth of them run-length encoded."""
    rng = np.random.default_rng(0)
    instances = []
    for n in range(120):
        x, y = rng.integers(0, 350, 2)
        box, hole = (x, y, x + 40, y + 50), (x + 9, y + 9, x + 20, y + 30)
        outline = ellipse(x + 20, y + 25, 18, 24) if n % 10 else hole_rle(400, 400, box, hole)
        instances.append({"file": "a.png", "segmentation": outline})
    files = write_coco(tmp_path_factory.mktemp("crowded"), {"a.png": (400, 400)}, instances)
    return load_annotations(files.json)


IDENTITY = Transform(1.0, 1.0, 0.0, 0.0)


def draw_crowded(annotations, spec):
    boxes = annotations.pixel_boxes(0)
    crowd, target_index = np.arange(len(boxes)) % 11 == 3, np.arange(len(boxes))
    return rasterize_targets(spec, annotations.outlines(0), crowd, IDENTITY, boxes, target_index)


@pytest.mark.parametrize("frame", ["roi", "image"])
def test_rois_drawn_in_portions_are_those_drawn_at_once(crowded, frame, monkeypatch):
    spec = TargetSpec(frame, (40, 30), 3, (400, 400))
    results = []
    for at_once in (1, 50_000, 1 << 40):
        monkeypatch.setattr(targets_module, "_CHUNK", at_once)
        results.append(draw_crowded(crowded, spec))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert set(np.unique(results[0])) == {0, 1, 2, IGNORE}


@pytest.mark.parametrize("frame", ["roi", "image"])
def test_memory_stays_near_that_of_the_result(crowded, frame):
    spec = TargetSpec(frame, (160, 160), 3, (400, 400))
    tracemalloc.start()
    result = draw_crowded(crowded, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * result.nbytes  # a plane of bytes for each ROI and instance would be 120 times


def test_rois_of_a_few_pixels_in_a_large_image_are_drawn(tmp_path):
    size, ellipses = (3000, 4000), [{"file": "a.png", "segmentation": ellipse(2000, 1500, 1900, 1400)}]
    outlines = load_annotations(write_coco(tmp_path, {"a.png": size}, ellipses).json).outlines(0)
    transform, spec = Letterbox((64, 64)).fit(*size), TargetSpec("roi", (56, 56), 3, (64, 64))
    rois = np.float32([[30, 30, 31, 31], [0, 8, 2, 10]])
    targets = rasterize_targets(spec, outlines, np.zeros(1, bool), transform, rois, np.array([0, 0]))
    assert (targets[0] == 1).all()
    assert (targets[1] == 0).all()
