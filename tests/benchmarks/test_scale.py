import sys

import cv2
import numpy as np
import pytest

from benchmarks import scale
from benchmarks.memory import fresh
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.roi_statistics import measure_rois

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

IMAGES = 40


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    cv2.imwrite(str(folder / "a.jpg"), np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype("u1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "LINKS", 7)
        return scale.make(folder, folder / "a.jpg", IMAGES)


def test_a_set_has_a_picture_for_every_record(given):
    assert len(scale.dataset_of(given).annotations) == len(list(given.pictures.iterdir())) == IMAGES
    links = {path.stat().st_ino for path in given.pictures.iterdir()}
    assert len(links) == 6


@pytest.mark.slow  # starts a process
def test_opening_leaves_little_behind(given):
    load_annotations(given.json, index_dir=given.index)
    seconds, before, after = fresh(scale.open_set, given)
    assert seconds > 0
    assert after.own - before.own < 50


def test_both_ways_of_analysis_see_the_same(given):
    annotations = load_annotations(given.json)
    usual = scale.through_full_masks(annotations, np.arange(IMAGES))
    found = measure_rois(annotations, scale.MIN_SIZE, 112)
    assert len(usual) == len(found.counts)
    weighted = (found.counts / 112**2 * found.area[:, None]).sum(axis=0)
    np.testing.assert_allclose(weighted / weighted.sum(), usual.sum(axis=0) / usual.sum(), atol=0.02)


@pytest.mark.slow  # starts a process
def test_an_epoch_counts_images_and_memory_three_times(given):
    images, seconds, memory = fresh(scale.epoch, given, 3)  # not forked from all that pytest has done
    assert images == 2 * scale.BATCH
    assert seconds > 0
    assert len(memory) == 2  # of three batches the tenth is the last
    assert all(found.own > 50 for found in memory)
