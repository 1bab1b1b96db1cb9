import numpy as np
import pytest

from benchmarks import epoch, usual_loop
from benchmarks.training import REAL, make_run

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def test_both_loops_train_on_the_same_rois_and_nearly_the_same_targets(realdata, tmp_path):
    overrides = [
        "data=coco128_person", "extractor=yolox", "data/augment=null", "callbacks=[]", "logger=[]",
        f"data.train_annotations={usual_loop.crowd_scenes(tmp_path, 4)}", "data.num_workers=0",
        "data.sampler.rois_per_image=4", "data.sampler.jitter_share=0", "data.min_roi_size=1",
    ]  # fmt: skip
    run = make_run(tmp_path, *overrides)
    ours = run.data.dataset("train")
    usual = usual_loop.UsualDataset(ours)
    by_roi = {}
    for item in range(4):
        _, roi, target = usual[item]
        by_roi[tuple(np.round(roi, 2))] = target
    sample = ours[0]
    assert {tuple(np.round(roi, 2)) for roi in sample.rois} == set(by_roi)
    for roi, target in zip(sample.rois, sample.targets, strict=True):
        other = by_roi[tuple(np.round(roi, 2))]
        assert (other == target).mean() > 0.85


def test_an_epoch_and_the_passes_over_its_batches_are_timed(realdata, tmp_path):
    run = make_run(tmp_path, *REAL, *epoch.COMPUTED["small roialign (32 channels)"])
    times = epoch.measure(run, tmp_path, epochs=1)
    assert len(times.epoch) == len(times.decoder) == len(times.extractor) == 1
    assert min(times.epoch + times.decoder + times.extractor) > 0
