"""Which images the overlays of a validation show, and what they show of them."""

import cv2
import numpy as np
import pytest
import torch
from helpers import rectangle, write_coco
from helpers.image_decoder import TinyImageDecoder
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_dataset import make
from tiny_run import fit, tiny_data, tiny_extractor, tiny_module, tiny_trainer

from roiseg.callbacks.overlays import ValidationOverlays, choose_items


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Images with 1, 2, 2, 3, 5 and 5 persons that can be ROIs, one without, and some too small to count."""
    counts = {"one.jpg": 1, "two.jpg": 2, "two_more.jpg": 2, "none.jpg": 0, "three.jpg": 3, "five.jpg": 5,
              "sub/five_more.jpg": 5}  # fmt: skip
    boxes = [(file, 2 + 20 * n, 10, 20 + 20 * n, 40) for file, count in counts.items() for n in range(count)]
    boxes += [("one.jpg", 30 + 8 * n, 10, 36 + 8 * n, 20) for n in range(5)]
    instances = [{"file": file, "segmentation": rectangle(*box)} for file, *box in boxes]
    folder = tmp_path_factory.mktemp("crowd")
    return make(write_coco(folder, dict.fromkeys(counts, (50, 110)), instances))


def choose(crowd, images):
    names = [str(crowd.annotations.file_names[i]) for i in crowd.images]
    return [names[item] for item in choose_items(crowd, images)]


@pytest.mark.parametrize(("images", "chosen"), [
    ({"three.jpg": 1, "one.jpg": 9}, ["three.jpg", "one.jpg"]),  # named, whatever their person count
    ({"five_more.jpg": 5}, ["sub/five_more.jpg"]),
    ({"a.jpg": 1, "b.jpg": 2, "c.jpg": 3, "d.jpg": 5}, ["one.jpg", "two.jpg", "three.jpg", "five.jpg"]),
    ({"a.jpg": 6}, ["five.jpg"]),  # one.jpg has six outlines, one of them large
    ({"a.jpg": 4}, ["three.jpg"]),  # the nearest count
    ({"a.jpg": 100}, ["five.jpg"]),
    ({"none.jpg": 0}, ["one.jpg"]),  # an image without a ROI is not drawn
    ({"a.jpg": 2, "b.jpg": 2, "c.jpg": 2}, ["two.jpg", "two_more.jpg", "one.jpg"]),
    ({"absent.jpg": 1, "one.jpg": 1}, ["two.jpg", "one.jpg"]),  # a named file stands in for no other
    ({}, []),
])  # fmt: skip
def test_named_files_are_drawn_and_unused_ones_of_the_nearest_count_stand_in(images, chosen, crowd):
    assert choose(crowd, images) == chosen


def test_no_image_is_drawn_twice_when_more_are_asked_for_than_there_are(crowd):
    chosen = choose(crowd, {f"{n}.jpg": n for n in range(20)})
    assert sorted(chosen) == sorted(set(chosen))
    assert len(chosen) == 6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("most", "every", "shown"), [(2, 1, [1, 2, 4, 8]), (2, 3, [3, 6]), (0, 4, [])])
def test_a_run_leaves_an_image_a_validation_and_fewer_in_tensorboard(
    coco_set, onnx_file, tmp_path, most, every, shown
):
    overlays = ValidationOverlays(tmp_path, {"a.jpg": 1}, row_height=32, in_tensorboard=most)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(
        coco_set, onnx_file, tmp_path, [overlays], max_epochs=9, check_val_every_n_epoch=every, logger=logger,
        limit_train_batches=1, limit_val_batches=1, enable_checkpointing=False, num_sanity_val_steps=1,
    )  # fmt: skip
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    tags = found.Tags()["images"]
    assert [event.step for tag in tags for event in found.Images(tag)] == shown
    epochs = range(every, 10, every)
    files = [f"validation_all_images_epoch_{epoch:04d}.png" for epoch in epochs]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == files
    assert overlays.last == tmp_path / files[-1]


FILES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


class Watched(ValidationOverlays):
    """Keeps what it draws."""

    def _columns(self, *given):
        columns = super()._columns(*given)
        self.drawn = [*getattr(self, "drawn", []), columns]
        return columns


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("frame", "options", "precision"),
    [("roi", {}, "32-true"), ("image", {"film": 1.0, "detail": 4}, "bf16-mixed")],
)
def test_the_masks_drawn_are_those_measured(frame, options, precision, coco_set, onnx_file, tmp_path):
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    decoder = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64), frame=frame, **options)
    data = tiny_data(coco_set, extractor, decoder, metric_size=(20, 12))
    overlays = Watched(tmp_path, dict.fromkeys(FILES, 1), row_height=40)
    module = tiny_module(decoder)
    trainer = tiny_trainer(
        tmp_path, [overlays], max_epochs=15, check_val_every_n_epoch=15, precision=precision,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    (columns,) = overlays.drawn
    assert [column.title for column in columns] == FILES
    ious = []
    for column in columns:
        y, x = np.mgrid[: column.image.shape[0], : column.image.shape[1]] + 0.5
        rows = zip(column.boxes, column.truth, column.prediction, strict=True)
        for (x1, y1, x2, y2), truth, prediction in rows:
            inside = (x >= x1 - 1e-3) & (x < x2 + 1e-3) & (y >= y1 - 1e-3) & (y < y2 + 1e-3)
            assert not prediction[~inside].any()
            ious.append((prediction & truth).sum() / (prediction | truth).sum())
    assert np.mean(ious) > 0.3
    tolerance = 1e-5 if precision == "32-true" else 5e-3  # measured and drawn in batches of different sizes
    assert float(trainer.callback_metrics["val/instance_iou"]) == pytest.approx(np.mean(ious), abs=tolerance)
    assert cv2.imread(str(overlays.last)).shape[0] > 2 * 40
