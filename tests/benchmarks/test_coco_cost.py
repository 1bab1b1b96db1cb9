"""What COCO costs, against arithmetic by hand."""

from __future__ import annotations

import pytest

from benchmarks import coco_cost
from benchmarks.coco_cost import Assumptions

pytestmark = pytest.mark.slow


def test_features_take_what_their_numbers_take():
    assumed = Assumptions(images=1000, views=3)
    assert coco_cost.feature_gb(assumed, 2) == pytest.approx(1000 * 3 * 1024 * 80 * 80 * 2 / 1e9)
    assert coco_cost.feature_gb(assumed, 1) == coco_cost.feature_gb(assumed, 2) / 2


def test_an_epoch_takes_as_long_as_its_slowest_part():
    assumed = Assumptions(
        images=3_600_000, extractor_gflops=100, extractor_tflops=100, extractor_efficiency=0.5, loader_ms=8, cores=8,
        disk_gbs=13.1072,
    )  # fmt: skip
    assert coco_cost.extraction_ms(assumed) == 2
    fast = coco_cost.epoch(assumed, gpus=1, step_ms=0.5)  # extraction 2 ms, reading 1 ms
    assert (fast.online, fast.cached) == (pytest.approx(2), pytest.approx(1))
    assert fast.disk_to_gain == pytest.approx(13.1072 / 2)
    assert fast.disk_to_wait_never == pytest.approx(13.1072 / 0.5)
    slow = coco_cost.epoch(assumed, gpus=4, step_ms=8.0)  # the decoder sets the pace both ways
    assert slow.online == slow.cached == pytest.approx(2)
    shared = coco_cost.epoch(assumed, gpus=4, step_ms=0.5)  # one disk for four GPUs
    assert shared.online == pytest.approx(0.5)
    assert shared.cached == pytest.approx(1)


def test_every_assumption_is_printed_with_its_source_and_can_be_given(capsys):
    coco_cost.main(["--images", "1234", "--model", "coarse", "--disk-gbs", "7.5"])
    printed = capsys.readouterr().out
    assert "1,234" in printed and "7.5" in printed and "coarse" in printed
    assert set(coco_cost._SOURCES) == set(Assumptions.__dataclass_fields__)


def test_a_step_costs_three_times_its_forward():
    decoder = coco_cost.build_decoder("coarse")
    one, nine = (coco_cost.decoder_gflops(Assumptions(rois=n), decoder) for n in (1, 9))
    cost = coco_cost.measure_cost(decoder, [coco_cost.SHAPE])
    assert nine - one == pytest.approx(8 * 6 * cost.roi_macs / 1e9)
