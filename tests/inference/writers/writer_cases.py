"""Results that tests of writers write."""

import cv2
import numpy as np

from roiseg.geometry.paste import paste_window
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.prediction import Prediction
from roiseg.inference.sources.source import Source, SourceImage

SIZE = (60, 80)  # H, W


class Pictures(Source):
    """A source that only says what it is."""

    def __init__(self, video=None):
        self.video = video

    def __len__(self):
        return 1

    def names(self):
        return iter(["x/a.jpg"])

    def __iter__(self):
        raise NotImplementedError


def disc(cx, cy, radius, size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]]
    return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2


def masks():
    """A disc; a ring over it, which has a hole; two discs that are one instance; nobody."""
    ring = disc(40, 30, 15) & ~disc(40, 30, 6)
    two = disc(12, 45, 6) | disc(30, 50, 4)
    return [disc(30, 25, 14), ring, two, np.zeros(SIZE, bool)]


BOXES = np.array([[15.5, 10, 45, 40], [25, 15, 56, 46], [5, 38, 35, 55], [60, 2, 75, 12]], np.float32)


def predicted(shapes, boxes, scores=None, size=SIZE):
    """A prediction with these masks [H, W] where they lie within their boxes."""
    windows = [paste_window(box, size) for box in np.asarray(boxes, np.float32)]
    shares = [
        np.where(shape[y1:y2, x1:x2], 0.9, 0.1).astype(np.float32)
        for shape, (x1, y1, x2, y2) in zip(shapes, windows, strict=True)
    ]
    scores = np.linspace(0.9, 0.6, len(shapes)) if scores is None else scores
    scores = np.asarray(scores, np.float32)
    return Prediction(size, np.asarray(boxes, np.float32).reshape(-1, 4), scores, scores / 2, windows, shares)


def result(shapes=None, boxes=BOXES, key="x/a", path=None, number=0, size=SIZE):
    """A result for an image of noise; by default with `masks()`."""
    shapes = masks() if shapes is None else shapes
    picture = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    frame = SourceImage(key, f"{key}.jpg", number, path, lambda: picture)
    return ImageResult(frame, picture, predicted(shapes, boxes, size=size), 100 + number)


def nobody(key="x/empty", number=1):
    return result([], np.zeros((0, 4), np.float32), key, number=number)


def write(writer, folder, results, source=None):
    """All results through a writer; returns what it says it has left."""
    source = source or Pictures()
    with writer.open(folder, source) as take:
        for one in results:
            take(one)
    return folder / writer.place(source)
