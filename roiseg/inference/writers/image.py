"""Write results as images: label maps, overlays, panels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from pydantic import PositiveInt

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, check_room, utf8_path
from roiseg.common.types import Share
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source, Video
from roiseg.inference.writers.writer import FileWriter, Write, Writer
from roiseg.visualize.canvas import ROI_RED, Image, instance_colors, write_image
from roiseg.visualize.drawing import blend_crops, draw_boxes, draw_labels
from roiseg.visualize.overlays import six_panel


class LabelPngWriter(FileWriter):
    """One 16-bit PNG per image: 0 for background, else the instance's number from 1.

    Of overlapping instances the smaller one is visible, as in all outputs (`Prediction.label_map`). Most
    viewers show the numbers as black.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: str = "labels") -> None:
        super().__init__(folder)

    def write(self, folder: Path, result: ImageResult) -> None:
        """See `FileWriter`."""
        write_image(folder / f"{result.source_image.key}.png", result.prediction.label_map())


_ROOM_CHECK = 50  # frames between checks of the free space


class OverlayWriter(Writer):
    """Masks, ROI boxes in red and numbers, at the image's own size.

    An image of more than 65,500 pixels on a side, which no JPEG has, is scaled down. A video becomes an mp4
    (MPEG-4 part 2) of the same frame rate, without sound and without the last column or row of an odd size.

    Args:
        folder: of the images, and suffix of the video's name.
        boxes: draw boxes and numbers.
        alpha: opacity of the colours, 0 to 1.
    """

    def __init__(self, folder: str = "overlays", boxes: bool = True, alpha: Share = 0.5) -> None:
        self.folder = folder
        self.boxes = boxes
        self.alpha = alpha

    def place(self, source: Source) -> str:
        """See `Writer`."""
        return f"{self.folder}/" if source.video is None else f"{source.video.name}_{self.folder}.mp4"

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """See `Writer`."""
        if source.video is None:
            yield lambda result: write_image(
                folder / self.folder / f"{result.source_image.key}.jpg", self.draw(result)
            )
            return
        with _video(folder / self.place(source), source.video) as add:
            yield lambda result: add(self.draw(result))

    def draw(self, result: ImageResult) -> Image:
        """Return the image with its instances, RGB uint8 [H, W, 3]."""
        found = result.prediction
        colors = instance_colors(len(found))
        image = blend_crops(result.image, found.crops, found.windows, colors, self.alpha)
        if not self.boxes:
            return image
        shorter = min(found.size)
        line, digits = max(1, round(shorter / 300)), max(8, round(shorter / 48))
        image = draw_boxes(image, found.boxes, ROI_RED, line)
        return draw_labels(image, found.boxes, range(1, len(found) + 1), colors, digits, inset=line)


@contextmanager
def _video(path: Path, video: Video) -> Iterator:
    """Yield a function that adds a frame, RGB uint8 [H, W, 3]; the file appears when the block ends."""
    height, width = video.size
    with atomic_path(path) as temporary, utf8_path(temporary) as name:
        stream = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), _rate(video.fps), (width, height))
        if not stream.isOpened():
            raise UserError(f"{path}: this OpenCV cannot write mp4 videos: leave the overlay writer out")

        numbers = itertools.count(1)

        def add(frame: Image) -> None:
            stream.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            if next(numbers) % _ROOM_CHECK == 0:
                check_room(path.parent)  # OpenCV does not report a failed write

        try:
            yield add
        finally:
            stream.release()
        check_room(path.parent)


def _rate(fps: float) -> float:
    """Round the frame rate to the decimals that fit MPEG-4's 16-bit time base."""
    return next(rate for digits in (3, 2, 1, 0) if (rate := round(fps, digits)) * 10**digits < 65_535)


class SixPanelWriter(FileWriter):
    """One PNG per image, see `roiseg.visualize.overlays`.

    Args:
        folder: of the files.
        label: name of an instance.
        panel_height: maximum height of a panel in pixels.
        panel_width: maximum width of a panel in pixels.
    """

    def __init__(
        self,
        folder: str = "six_panel",
        label: str = "person",
        panel_height: PositiveInt = 480,
        panel_width: PositiveInt = 640,
    ) -> None:
        super().__init__(folder)
        self.label = label
        self.panel = (panel_height, panel_width)

    def write(self, folder: Path, result: ImageResult) -> None:
        """See `FileWriter`."""
        found = result.prediction
        masks = (found.mask(index) for index in range(len(found)))
        figure = six_panel(result.image, found.boxes, found.scores.tolist(), masks, self.label, self.panel)
        write_image(folder / f"{result.source_image.key}.png", figure)
