"""The six-panel figure of each picture."""

from __future__ import annotations

from pathlib import Path

from roiseg.inference.pictures import Result
from roiseg.visualize.six_panel import six_panel
from roiseg.writers.picture_files import write_rgb
from roiseg.writers.writer import FileWriter


class SixPanelWriter(FileWriter):
    """A PNG a picture; see `roiseg.visualize.six_panel`.

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

    def write(self, folder: Path, result: Result) -> None:
        """Draw and write the picture's figure."""
        found = result.prediction
        masks = (found.mask(index) for index in range(len(found)))
        figure = six_panel(result.image, found.boxes, found.scores.tolist(), masks, self.label, self.panel)
        write_rgb(folder / f"{result.frame.key}.png", figure)
