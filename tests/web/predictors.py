"""Stand-ins for trained models whose masks can be said by hand."""

import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from roiseg.common.errors import UserError
from roiseg.inference.prediction import Prediction


@dataclass
class EllipsePredictor:
    """Finds an ellipse in every box: the target falls from 1 in the middle to 0 at the box's sides.

    What is outside the ellipse is non-target, with probability 0.8. Counts how it is called.
    """

    height: float = 1.0  # of the ellipse, as a share of the box's
    tells_others: bool = True
    found: tuple | None = None  # the detector's boxes; None: there is no detector
    reads_points: bool = False
    summary: str = ""

    def __post_init__(self):
        self.model = SimpleNamespace(prompts=("points",) if self.reads_points else (), summary=self.summary)
        self.images = []
        self.points = None
        self.running = 0
        self.together = 0
        self._counting = threading.Lock()

    @property
    def has_detector(self):
        return self.found is not None

    def set_image(self, image):
        self.images.append(image)
        self._image = image

    def detect(self):
        if not self.has_detector:
            raise UserError("no detector")
        boxes = np.array(self.found, np.float32).reshape(-1, 4)
        return SimpleNamespace(boxes=boxes, scores=np.linspace(0.9, 0.5, len(boxes), dtype=np.float32))

    def predict(self, boxes, scores, points=None, threshold=0.5):
        with self._counting:
            self.running += 1
            self.together = max(self.together, self.running)
        self.points = points
        height, width = self._image.shape[:2]
        windows, targets = [], []
        for x1, y1, x2, y2 in np.asarray(boxes, np.float64):
            left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
            right, bottom = min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
            x = (np.arange(left, right) + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2)
            y = (np.arange(top, bottom) + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2 * self.height)
            windows.append((left, top, right, bottom))
            targets.append(np.clip(1 - x[None] ** 2 - y[:, None] ** 2, 0, 1).astype(np.float32))
        others = [np.where(target > 0, 0, 0.8).astype(np.float32) for target in targets]
        with self._counting:
            self.running -= 1
        return Prediction(
            (height, width), np.asarray(boxes, np.float32), np.asarray(scores, np.float32),
            np.full(len(boxes), 0.5, np.float32), windows, targets,
            others if self.tells_others else None, threshold,
        )  # fmt: skip
