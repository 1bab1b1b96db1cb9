"""Instances as images of their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, check_room, utf8_path
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source, Video
from roiseg.inference.writers.writer import FileWriter, Write, Writer, write_labels, write_rgb
from roiseg.visualize.canvas import Image
from roiseg.visualize.drawing import blend_crops, draw_boxes, draw_labels
from roiseg.visualize.palette import ROI_RED, instance_colors
from roiseg.visualize.six_panel import six_panel


class LabelPngWriter(FileWriter):
    """A 16-bit PNG an image: 0 where nobody is, else the instance's number from 1.

    Where two overlap, the smaller one shows, as in all outputs (`Prediction.label_map`). Numbers are those
    of the other formats; most viewers show them as black.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: str = "labels") -> None:
        super().__init__(folder)

    def write(self, folder: Path, result: ImageResult) -> None:
        """Write the image's PNG."""
        write_labels(folder / f"{result.frame.key}.png", result.prediction.label_map())


_EVERY = 50  # frames from one look at whether the disk has room to the next


class OverlayWriter(Writer):
    """Masks, ROI boxes in red and numbers, at the image's own size.

    A video becomes an mp4 (MPEG-4 part 2) of the same frames a second, without sound; of an odd width or
    height the last column or row is lost, which that format does not have.

    Args:
        folder: where images go, and what the video is called.
        boxes: draw boxes and numbers.
        alpha: weight of the colours, 0 to 1.
    """

    def __init__(self, folder: str = "overlays", boxes: bool = True, alpha: float = 0.5) -> None:
        self.folder = folder
        self.boxes = boxes
        self.alpha = alpha

    def place(self, source: Source) -> str:
        """The folder, or the video."""
        return f"{self.folder}/" if source.video is None else f"{source.video.name}_{self.folder}.mp4"

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """Images are written at once, a video is there at the end."""
        if source.video is None:
            yield lambda result: write_rgb(
                folder / self.folder / f"{result.frame.key}.jpg", self.draw(result)
            )
            return
        with _video(folder / self.place(source), source.video) as add:
            yield lambda result: add(self.draw(result))

    def draw(self, result: ImageResult) -> Image:
        """The image with its instances, RGB uint8 [H, W, 3]."""
        found = result.prediction
        colors = instance_colors(len(found))
        picture = blend_crops(result.image, found.crops, found.windows, colors, self.alpha)
        if not self.boxes:
            return picture
        shorter = min(found.size)
        line, digits = max(1, round(shorter / 300)), max(8, round(shorter / 48))
        picture = draw_boxes(picture, found.boxes, ROI_RED, line)
        return draw_labels(picture, found.boxes, range(1, len(found) + 1), colors, digits, inset=line)


@contextmanager
def _video(path: Path, video: Video) -> Iterator:
    """Yield a function that adds a frame, RGB uint8 [H, W, 3]; the file is there when the block ends."""
    height, width = video.size
    with atomic_path(path) as temporary, utf8_path(temporary) as name:
        stream = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), _rate(video.fps), (width, height))
        if not stream.isOpened():
            raise UserError(f"{path}: this OpenCV cannot write mp4 videos: leave the overlay writer out")

        numbers = itertools.count(1)

        def add(frame: Image) -> None:
            stream.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            if next(numbers) % _EVERY == 0:
                check_room(path.parent)  # OpenCV does not say that it cannot write

        try:
            yield add
        finally:
            stream.release()
        check_room(path.parent)


def _rate(fps: float) -> float:
    """Frames a second with as many decimals as MPEG-4 has room for: its ticks a second are 16 bits."""
    return next(rate for digits in (3, 2, 1, 0) if (rate := round(fps, digits)) * 10**digits < 65_535)


class SixPanelWriter(FileWriter):
    """A PNG an image; see `roiseg.visualize.six_panel`.

    Args:
        folder: where the files go.
        label: what an instance is called.
        panel_height: most pixels a panel is high.
        panel_width: most pixels a panel is wide.
    """

    def __init__(
        self,
        folder: str = "six_panel",
        label: str = "person",
        panel_height: int = 480,
        panel_width: int = 640,
    ) -> None:
        super().__init__(folder)
        self.label = label
        self.panel = (panel_height, panel_width)

    def write(self, folder: Path, result: ImageResult) -> None:
        """Draw and write the image's figure."""
        found = result.prediction
        masks = (found.mask(index) for index in range(len(found)))
        figure = six_panel(result.image, found.boxes, found.scores.tolist(), masks, self.label, self.panel)
        write_rgb(folder / f"{result.frame.key}.png", figure)
