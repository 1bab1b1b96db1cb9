"""Slow, independent decoding of detector heads, for tests: plain loops in float64."""

import math

import numpy as np


def assert_found(found, wanted, atol=1e-4):
    """Detections are the boxes, scores and labels of `wanted`, in its order."""
    assert len(found) == len(wanted)
    boxes, scores, labels = zip(*wanted, strict=True) if wanted else ([], [], [])
    np.testing.assert_allclose(found.boxes, np.reshape(boxes, (-1, 4)), atol=atol)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert found.labels.tolist() == list(labels)


def yolox_boxes(raw, image_size, strides, labels):
    """(box, score, label) of every row of a YOLOX head [1, A, 5 + C]."""
    found, row = [], 0
    for stride in strides:
        for y in range(image_size[0] // stride):
            for x in range(image_size[1] // stride):
                dx, dy, w, h, objectness, *classes = map(float, raw[0][row])
                cx, cy = (x + dx) * stride, (y + dy) * stride
                w, h = math.exp(w) * stride, math.exp(h) * stride
                score, label = max((classes[k], -k) for k in labels)
                found.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], objectness * score, -label))
                row += 1
    assert row == len(raw[0])
    return found


def yolo_boxes(columns, labels):
    """(box, score, label) of every column of a raw YOLO head [4 + C, A]."""
    found = []
    for a in range(len(columns[0])):
        cx, cy, w, h, *classes = (float(line[a]) for line in columns)
        score, label = max((classes[k], -k) for k in labels)
        found.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], score, -label))
    return found


def choose(found, image_size, score_threshold, iou_threshold, most):
    """What stays of (box, score, label): best first, cut to the image; greedy NMS by plain loops."""
    height, width = image_size

    def cut(box):
        return [min(max(value, 0), side) for value, side in zip(box, (width, height) * 2, strict=True)]

    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

    def inside(box):
        x1, y1, x2, y2 = cut(box)
        return x2 > x1 and y2 > y1

    ordered = sorted((f for f in found if f[1] > score_threshold and inside(f[0])), key=lambda f: -f[1])
    kept = []
    for one in ordered:
        apart = iou_threshold is None or all(iou(one[0], k[0]) <= iou_threshold for k in kept)
        if len(kept) < most and apart:
            kept.append(one)
    return [(cut(box), score, label) for box, score, label in kept]
