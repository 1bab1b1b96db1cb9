"""What the images of a validation show, for decoders in either frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from helpers.image_decoder import TinyImageDecoder
from tiny_run import one_thread, tiny_data, tiny_extractor, tiny_module, tiny_trainer

from roiseg.callbacks.overlays import ValidationOverlays

pytestmark = pytest.mark.filterwarnings("ignore")

FILES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


class Watched(ValidationOverlays):
    """Keeps what it draws."""

    def _columns(self, *given):
        columns = super()._columns(*given)
        self.drawn = [*getattr(self, "drawn", []), columns]
        return columns


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "32-true"), ({"film": 1.0, "detail": 4}, "bf16-mixed")],
    ids=["plain", "film and detail"],
)
@pytest.mark.parametrize("frame", ["roi", "image"])
def test_the_masks_drawn_are_those_that_are_measured(
    frame, options, precision, coco_set, onnx_file, tmp_path
):
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    decoder = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), frame=frame, **options)
    data = tiny_data(coco_set, extractor, decoder, metric_size=(20, 12))
    overlays = Watched(tmp_path, dict.fromkeys(FILES, 1), row_height=40)
    module = tiny_module(decoder)
    trainer = tiny_trainer(
        tmp_path, [overlays], max_epochs=40, check_val_every_n_epoch=40, precision=precision,
        enable_checkpointing=False,
    )  # fmt: skip
    with one_thread():
        trainer.fit(module, datamodule=data)
    (columns,) = overlays.drawn
    assert [column.title for column in columns] == FILES
    ious = []
    for column in columns:
        y, x = np.mgrid[: column.image.shape[0], : column.image.shape[1]] + 0.5
        for (x1, y1, x2, y2), truth, prediction in zip(
            column.boxes, column.truth, column.prediction, strict=True
        ):
            inside = (x >= x1 - 1e-3) & (x < x2 + 1e-3) & (y >= y1 - 1e-3) & (y < y2 + 1e-3)
            assert not prediction[~inside].any()
            ious.append((prediction & truth).sum() / (prediction | truth).sum())
    assert np.mean(ious) > 0.3
    tolerance = 1e-5 if precision == "32-true" else 5e-3  # measured and drawn in batches of different sizes
    assert float(trainer.callback_metrics["val/instance_iou"]) == pytest.approx(np.mean(ious), abs=tolerance)
    assert cv2.imread(str(overlays.last)).shape[0] > 2 * 40
