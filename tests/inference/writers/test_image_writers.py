"""Label maps, overlays, videos and figures, read by Pillow and OpenCV."""

import dataclasses
import resource

import cv2
import numpy as np
import pytest
from helpers import user_error
from PIL import Image
from writer_cases import BOXES, SIZE, Pictures, disc, masks, nobody, result, write

from roiseg.inference.sources.source import Video
from roiseg.inference.writers.image import LabelPngWriter, OverlayWriter, SixPanelWriter
from roiseg.visualize.canvas import ROI_RED, instance_colors, write_image
from roiseg.visualize.drawing import blend_masks
from roiseg.web.models import mask_png


def read(path):
    return np.array(Image.open(path))


def test_label_map_has_the_numbers_of_the_instances(tmp_path):
    write(LabelPngWriter(), tmp_path, [result(), nobody()])
    labels = read(tmp_path / "labels/x/a.png")
    first, ring, two, _ = masks()
    expected = np.zeros(SIZE, int)
    shapes = ((3, two), (2, ring), (1, first))
    for number, mask in sorted(shapes, key=lambda shape: -shape[1].sum()):  # the smallest is on top
        expected[mask] = number
    assert np.array_equal(labels, expected)
    assert not read(tmp_path / "labels/x/empty.png").any()
    # more instances than a byte counts
    boxes = np.array([[i % 20 * 4, i // 20 * 4, i % 20 * 4 + 4, i // 20 * 4 + 4] for i in range(300)], float)
    write(LabelPngWriter(), tmp_path, [result([np.ones(SIZE, bool)] * 300, boxes)])
    assert read(tmp_path / "labels/x/a.png")[57, 77] == 300


def test_overlays_show_masks_boxes_and_numbers(tmp_path):
    one = result()
    write(OverlayWriter(boxes=False), tmp_path, [one, nobody()])
    expected = blend_masks(one.image, np.stack(masks()), instance_colors(4))
    found = read(tmp_path / "overlays/x/a.jpg")
    assert found.shape == (*SIZE, 3)
    assert np.abs(found.astype(int) - expected).mean() < 6  # JPEG
    boxed = OverlayWriter().draw(one)
    x1, _, x2, y2 = BOXES[1].astype(int)
    assert (boxed[y2 - 1, x1 + 3 : x2 - 3] == ROI_RED).all()
    assert np.abs(read(tmp_path / "overlays/x/empty.jpg").astype(int) - nobody().image).mean() < 6


@pytest.mark.parametrize("fps", [12.5, 29.97, 999.99])
def test_a_video_becomes_a_video(tmp_path, fps):
    source = Pictures(Video("clip.v1", SIZE, fps))
    frames = [result([disc(10 + 5 * i, 30, 8)], [[0, 20, 80, 40]], f"clip_{i}", number=i) for i in range(10)]
    writer = OverlayWriter(alpha=0.9, boxes=False)
    path = write(writer, tmp_path, frames, source)
    assert path.name == "clip.v1_overlays.mp4"
    assert [p.name for p in tmp_path.glob("[!.]*")] == [path.name]
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, abs=0.01)
    for frame in frames:
        found, picture = video.read()
        assert found and picture.shape == (*SIZE, 3)
        assert np.abs(picture[:, :, ::-1].astype(int) - writer.draw(frame)).mean() < 12
    assert not video.read()[0]


def test_a_video_of_odd_sides_loses_a_line(tmp_path):
    frames = [result([], [], number=i, size=(61, 81)) for i in range(3)]
    path = write(OverlayWriter(), tmp_path, frames, Pictures(Video("x", (61, 81), 25.0)))
    assert cv2.VideoCapture(str(path)).read()[1].shape == (60, 80, 3)


def test_a_full_disk_is_told_while_frames_come(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    taken = []

    def film():
        with OverlayWriter().open(tmp_path, Pictures(Video("x", SIZE, 25.0))) as take:
            for number in range(1000):
                take(dataclasses.replace(result([], [], number=number), image=noise))
                taken.append(number)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))  # a system's limit, as a full disk is
    try:
        line = user_error(film)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "x_overlays.mp4 cannot be written" in line
    assert len(taken) < 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reverse", [False, True])
def test_a_small_instance_in_front_of_a_large_one_shows_in_every_output(tmp_path, reverse):
    """Whatever the scores say: label map, overlay, six panels and the page's download have one order."""
    shapes = [disc(40, 30, 25), disc(40, 30, 4)][:: -1 if reverse else 1]
    boxes = np.array([[10, 2, 70, 58]] * 2, np.float32)
    one = result(shapes, boxes)  # scores fall: the first has the higher
    small = 0 if reverse else 1
    color = instance_colors(2)[small].astype(int)
    assert one.prediction.label_map()[30, 40] == small + 1
    page = cv2.imdecode(np.frombuffer(mask_png(one.prediction, None), np.uint8), cv2.IMREAD_UNCHANGED)
    assert page[30, 40] == small + 1
    assert np.abs(OverlayWriter(boxes=False, alpha=1.0).draw(one)[30, 40] - color).max() <= 1
    write(SixPanelWriter(), tmp_path, [one])
    panels = cv2.imread(str(tmp_path / "six_panel/x/a.png"))[..., ::-1].astype(int)
    dark = np.rint(np.array((32, 34, 40)) * np.float32(0.15) + color * np.float32(0.85))
    assert (np.abs(panels - dark).max(axis=-1) <= 1).sum() > 50


@pytest.mark.parametrize("shape", [(2, 70_000, 3), (70_000, 1, 3), (3, 65_500, 3)])
def test_an_image_that_is_too_long_for_a_jpeg_is_scaled_down(tmp_path, shape):
    image = np.full(shape, 90, np.uint8)
    write_image(tmp_path / "long.jpg", image)
    height, width = cv2.imread(str(tmp_path / "long.jpg")).shape[:2]
    assert max(height, width) == 65_500
    write_image(tmp_path / "long.png", image)
    assert cv2.imread(str(tmp_path / "long.png")).shape == shape
