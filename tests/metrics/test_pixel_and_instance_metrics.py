import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers.bilinear import IDENTITY, paste
from pycocotools import mask as coco_mask
from tiny_run import measured

from roiseg.common.classes import CLASS_NAMES
from roiseg.data.batch import RoiBatch, RoiSample, RoiTruth
from roiseg.geometry.transform import Transform
from roiseg.losses.base import LossInput
from roiseg.losses.multimask import mask_iou
from roiseg.metrics.average_precision import average_precision
from roiseg.metrics.instance import InstanceRecord
from roiseg.metrics.roi import InstanceMetrics, PixelMetrics


def confusion_scores(predicted, truth, classes):
    """The metrics out of a confusion matrix, in numpy."""
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (truth[truth != 255], predicted[truth != 255]), 1)
    hit, true, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    occurs = true + said > 0
    iou = np.divide(hit, true + said - hit, out=np.zeros(classes), where=occurs)
    dice = np.divide(2 * hit, true + said, out=np.zeros(classes), where=occurs)
    recall = np.divide(hit, true, out=np.zeros(classes), where=true > 0)
    scores = {
        "miou": iou[occurs].mean(), "dice": dice[occurs].mean(),
        "mean_pixel_accuracy": recall[occurs].mean(), "pixel_accuracy": hit.sum() / matrix.sum(),
    }  # fmt: skip
    for name, i, d in zip(CLASS_NAMES, iou, dice, strict=False):
        scores |= {f"{name}_iou": i, f"{name}_dice": d}
    return scores


def class_maps(classes, ignored, only):
    shape, rng = (6, 7, 6), np.random.default_rng(0)
    truth = rng.choice(only or range(classes), shape)
    predicted = np.where(rng.uniform(size=shape) < 0.6, truth, rng.choice(only or range(classes), shape))
    truth[rng.uniform(size=shape) < ignored] = 255
    return predicted, truth


def scalars(metrics):
    return {name: float(value) for name, value in metrics.scalars().items()}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("only", [None, [0, 1], [1]])  # a class that never occurs is left out of means
def test_pixel_metrics_equal_those_of_a_confusion_matrix_of_all_batches(classes, ignored, only):
    predicted, truth = class_maps(classes, ignored, only)
    metrics = PixelMetrics(classes)
    for _ in range(2):
        metrics.reset()
        for start, end in ((0, 0), (0, 1), (1, 4), (4, 4), (4, 6)):  # batches without ROIs, one first
            metrics.update(*(torch.from_numpy(maps[start:end]) for maps in (predicted, truth)))
        assert scalars(metrics) == pytest.approx(confusion_scores(predicted, truth, classes), abs=1e-6)


def naive_boundary(mask):
    """`mask_to_boundary` of the boundary-iou-api: pad by one, erode 3x3 as often as wide, subtract."""
    times = max(1, round(0.02 * np.hypot(*mask.shape)))
    inner = cv2.erode(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=times)
    return mask & (inner[1:-1, 1:-1] == 0)


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def coco_iou(a, b):
    return float(coco_mask.iou([rle(a)], [rle(b)], [0])[0, 0])


def batch_of(images):
    """A batch of (transform, original size, ROIs [r, 4] in input pixels, true masks) each."""
    rois, samples = [], []
    for index, (transform, size, boxes, truths) in enumerate(images):
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        rois.append(np.insert(boxes, 0, index, axis=1))
        picture, targets = np.zeros((0, 1, 3), np.uint8), np.zeros((0, 1, 1), np.uint8)
        sample = RoiSample(index, index, "x.jpg", picture, transform, size, boxes, targets)
        rles = [rle(truth) for truth in truths]
        truth = RoiTruth(np.arange(len(boxes)), rles, non_target_shares=np.zeros(len(boxes)))
        samples.append(replace(sample, truth=truth))
    rois = torch.from_numpy(np.concatenate(rois).astype(np.float32))
    empty = torch.zeros(len(rois), 1, 1, dtype=torch.uint8)
    return RoiBatch(torch.zeros(len(images), 1, 1, 3, dtype=torch.uint8), rois, empty, samples)


def blob(height, width, seed):
    """A smooth random map in 0..1 with both sides of 0.5."""
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0].clamp(0, 1)


def disc(size, cx, cy, radius):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2


LETTERBOX = Transform(0.83, 0.79, 5.0, 3.0)
MIRROR = Transform(-0.83, 0.79, 58.7, 3.0)
SIZE = (61, 64)  # original pixels; boundaries are 2 px wide
BOXES = {
    "inside": [12.3, 9.2, 44.6, 41.7], "at the border": [4.9, 2.8, 30.3, 51.4],
    "over the border": [-9.4, -12.3, 35.6, 33.3], "thin": [20.3, 5.1, 22.9, 48.6],
    "the whole image and more": [-20.2, -15.7, 90.3, 80.1],
}  # fmt: skip


@pytest.mark.parametrize("transform", [LETTERBOX, MIRROR], ids=["letterbox", "mirrored"])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_instance_metrics_equal_those_of_full_naive_canvases_also_under_autocast(box, transform):
    probability, truth = blob(9, 7, seed=3), disc(SIZE, 30, 24, 19)
    batch = batch_of([(transform, SIZE, [box], [truth])])
    plain, mixed = InstanceMetrics(), InstanceMetrics()
    plain.update(measured(probability[None], batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed.update(measured(probability[None], batch))
    assert mixed.compute() == plain.compute()
    predicted = paste(probability.numpy(), box, SIZE, transform=transform) >= 0.5
    assert predicted.any()
    got = {name: float(value) for name, value in plain.compute().items()}
    assert "crowded_iou" not in got
    boundary = coco_iou(naive_boundary(predicted), naive_boundary(truth))
    assert got["instance_iou"] == pytest.approx(coco_iou(predicted, truth), abs=1e-6)
    assert got["boundary_iou"] == pytest.approx(boundary, abs=1e-6)


def measure(probability, box, truth):
    metrics = InstanceMetrics()
    batch = batch_of([(IDENTITY, truth.shape, [box], [truth])])
    metrics.update(measured(torch.as_tensor(probability)[None], batch))
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize(
    ("value", "rows", "iou", "counted"), [(0.5, 4, 1, 1), (0.4999, 4, 0, 0), (1, 3, 0.75, 1), (1, 2, 0.5, 0)]
)
def test_a_probability_of_one_half_is_mask_and_an_iou_of_three_quarters_counts(value, rows, iou, counted):
    got = measure(torch.full((3, 3), value), [0, 0, 4, rows], np.ones((4, 4), bool))
    assert (got["instance_iou"], got["instance_iou75"]) == (iou, counted)


@pytest.mark.parametrize("box", [[-20, -20, -5, -3], [25, 2, 40, 9], [3, 100, 9, 120], [5, 5, 5, 5]])
def test_a_box_outside_the_image_or_without_area_scores_0(box):
    assert measure(torch.ones(3, 3), box, disc((20, 20), 8, 8, 5))["instance_iou"] == 0


NOTHING = {"image_id": 1, "segmentation": rle(np.zeros((10, 10))), "bbox": [0, 0, 0, 0]}


def pixel_scores(predicted):
    metrics = PixelMetrics(3)
    metrics.update(predicted, torch.tensor([0, 2, 255, 0]).expand(1, 2, 4))
    return list(scalars(metrics).values())


def precision_of(results):
    truth = {"category_id": 1, "iscrowd": 0, "area": 0, **NOTHING}
    return [value or 0 for value in average_precision([truth], results, [1]).values()]


def score_of_candidates(drawn):
    target, logits = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 1, 3, 4, 4)
    logits[:, :, drawn] = 1
    return mask_iou(LossInput(logits[:, 0], target, emphasis=torch.ones(1, 4, 4)), logits).flatten().tolist()


EMPTY = np.zeros((10, 10), bool)
SCORES_OF_AN_EMPTY_TRUTH = {
    "instances, empty": lambda: measure(torch.zeros(2, 2), [2, 2, 8, 8], EMPTY).values(),
    "instances, drawn": lambda: measure(torch.ones(2, 2), [2, 2, 8, 8], EMPTY).values(),
    "pixels, empty": lambda: pixel_scores(torch.tensor([0, 2, 0, 0]).expand(1, 2, 4)),
    "pixels, drawn": lambda: pixel_scores(torch.ones(1, 2, 4, dtype=torch.long)),
    "precision, nothing found": lambda: precision_of([]),
    "precision, empty": lambda: precision_of([NOTHING | {"score": 1.0}]),
    "candidates, empty": lambda: score_of_candidates(0),
    "candidates, drawn": lambda: score_of_candidates(1),
}


@pytest.mark.parametrize("scores", SCORES_OF_AN_EMPTY_TRUTH.values(), ids=SCORES_OF_AN_EMPTY_TRUTH)
def test_an_empty_truth_scores_0_whatever_is_predicted(scores):
    assert set(map(float, scores())) == {0.0}


def test_instances_of_a_huge_image_are_measured_in_the_window_they_fill():
    size = (6000, 8000)
    truth = np.zeros(size, bool)
    truth[5000:5300, 7000:7200] = True
    batch = batch_of([(IDENTITY, size, [[7000, 5100, 7200, 5300]], [truth])])
    metrics = InstanceMetrics()
    tracemalloc.start()
    metrics.update(measured(torch.ones(1, 3, 3), batch, boundary_width=0.001))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < truth.nbytes / 8
    assert float(metrics.compute()["instance_iou"]) == pytest.approx(200 / 300)


def test_crowded_iou_is_the_mean_where_others_cover_more_than_a_tenth():
    given = [(0.0, 0.9), (0.1, 0.8), (0.1001, 0.3), (0.7, 0.5)]  # shares, IoUs
    records = [InstanceRecord(1, "x.jpg", 1, 0, 0, 9, 9, 50, *one, 0.5, 0.5) for one in given]
    metrics = InstanceMetrics()
    metrics.update(records[:3])
    metrics.update(records[3:])
    assert float(metrics.compute()["crowded_iou"]) == pytest.approx(0.4)
    assert float(metrics.compute()["instance_iou"]) == pytest.approx(2.5 / 4)
    assert {v.dtype for v in metrics.metric_state.values()} == {torch.float32}  # Apple's MPS has no float64
