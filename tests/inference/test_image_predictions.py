"""One image after another: what is counted, what is left out, and that nothing is kept."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from roiseg.common.errors import UserError
from roiseg.common.limits import TooMuch
from roiseg.inference.box_files.base import BoxFile, ImageBoxes
from roiseg.inference.image_predictions import ImagePredictions
from roiseg.inference.prediction import Prediction
from roiseg.inference.sources.source import Source, SourceImage

DETECTED = ImageBoxes.of_rows([[1, 1, 5, 5, 0.9], [2, 2, 6, 6, 0.4]])


class Recorder:
    """Stands for a predictor: keeps what it was asked for, answers with empty masks."""

    def __init__(self):
        self.asked = []

    def set_image(self, image, pixel_size):
        self.value = int(image[0, 0, 0])
        self.pixel_size = pixel_size

    def detect(self):
        return SimpleNamespace(boxes=DETECTED.boxes, scores=DETECTED.scores)

    def predict(self, boxes, scores, threshold):
        self.asked.append((self.value, boxes.tolist(), threshold))
        windows = [(0, 0, 1, 1)] * len(boxes)
        return Prediction((8, 8), boxes, scores, scores, windows, [np.zeros((1, 1), np.float32)] * len(boxes))


class Numbers(Source):
    """Images of their own numbers; those of `damaged` cannot be read."""

    def __init__(self, count, damaged=()):
        self.count, self.damaged, self.made = count, damaged, []

    def __len__(self):
        return self.count

    def names(self):
        return (f"n{number}" for number in range(self.count))

    def __iter__(self):
        for number, name in enumerate(self.names()):
            yield SourceImage(name, name, number, None, lambda n=number: self.picture(n))

    def picture(self, number):
        if number in self.damaged:
            raise UserError(f"image n{number} is damaged")
        picture = np.full((8, 8, 3), number, np.uint8)
        self.made.append(weakref.ref(picture))
        return picture


class Even(BoxFile):
    """Knows the images of even numbers, by their id."""

    path = "even.json"
    has_ids = True

    def lists(self, name):
        return int(name[1:]) % 2 == 0

    def find(self, frame, size):
        return ImageBoxes.of_rows([[0, 0, 4, 4, 1]], 1000 + frame.number) if self.lists(frame.name) else None


def test_the_detectors_boxes_below_the_score_are_left_out():
    predictor = Recorder()
    results = list(ImagePredictions(predictor, Numbers(2), min_score=0.5, threshold=0.3, pixel_size=2.5))
    assert predictor.asked == [(n, [[1, 1, 5, 5]], 0.3) for n in range(2)]
    assert predictor.pixel_size == 2.5
    assert [result.image_id for result in results] == [1, 2]
    assert [len(result.prediction) for result in results] == [1, 1]


def test_counts_and_ids_where_a_file_knows_some_of_the_pictures():
    pictures = ImagePredictions(Recorder(), Numbers(5), Even())
    assert [result.image_id for result in pictures] == [1000, -2, 1002, -4, 1004]
    tally = pictures.counts
    assert (tally.images, tally.instances, tally.empty, tally.unlisted, tally.skipped) == (5, 3, 2, 2, [])
    assert tally.seconds > 0


class Bounded(Recorder):
    """Refuses the boxes of image 1."""

    def predict(self, boxes, scores, threshold):
        if self.value == 1:
            raise TooMuch("20,000 boxes")
        return super().predict(boxes, scores, threshold)


@pytest.mark.parametrize(
    ("predictor", "damaged", "reason"),
    [(Recorder, [1], "image n1 is damaged"), (Bounded, [], "image n1: 20,000 boxes")],
)
def test_an_image_that_cannot_be_read_or_has_too_many_boxes_is_left_out(predictor, damaged, reason):
    skipping = ImagePredictions(predictor(), Numbers(4, damaged), skip=True)
    assert [result.source_image.number for result in skipping] == [0, 2, 3]
    assert skipping.counts.skipped == [reason]
    with pytest.raises(UserError, match=f"{reason}; on_error=skip"):
        list(ImagePredictions(predictor(), Numbers(4, damaged)))


def test_no_picture_is_kept():
    source = Numbers(30)
    for _ in ImagePredictions(Recorder(), source):
        assert sum(reference() is not None for reference in source.made) <= 2
