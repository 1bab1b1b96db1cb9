"""The benchmarks' pieces, on small numbers: what they compare is the same, what they count is right."""

import numpy as np
import pytest
import torch

from benchmarks import cache, coco_cost, compact, epoch, export, head_quality, learned_projection, usual_loop
from benchmarks.coco_cost import Assumptions
from benchmarks.decoder_step import ONE_LAYER, configured, step_of
from benchmarks.paste import WAYS, agreement, persons
from benchmarks.real import yolox
from benchmarks.reference_head import ReferenceHead
from benchmarks.roi_align import Setting, example, roi_align_on_grid_sample, ways
from benchmarks.targets import SPECS, as_rle, exact, looked_up, ours, scenes, straight, usual, wrong
from benchmarks.training import REAL, make_run
from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.geometry.roi_align import roi_align

pytestmark = pytest.mark.slow

SMALL = {"roi_size": (4, 4), "output_size": (4, 4), "mid_channels": 4}


@pytest.mark.parametrize(("size", "ratio"), [(7, 1), (4, 2), (5, 4)])
def test_roi_align_on_grid_sample_is_roi_align(size, ratio):
    features, rois = example(Setting(6, 20, size, ratio))
    usual = roi_align_on_grid_sample(features, rois, (size, size), 8, ratio)
    torch.testing.assert_close(usual, roi_align(features, rois, (size, size), 8, ratio), atol=1e-4, rtol=1e-4)


def test_both_ways_of_roi_align_have_the_same_gradient():
    ours, usual = (way() for way in ways(Setting(3, 16, 4, 2), backward=True).values())
    torch.testing.assert_close(ours, usual, atol=1e-4, rtol=1e-4)


def test_the_reference_head_has_the_sizes_of_its_model():
    head = ReferenceHead([128], [8], (416, 416))
    assert sum(p.numel() for p in head.parameters()) == 5_562_179
    features = [torch.randn(2, 128, 52, 52)]
    rois = torch.tensor([[0, 10.0, 20, 100, 300], [1, 50, 60, 200, 400]])
    with torch.no_grad():
        assert head(features, rois[:1]).logits.shape == (1, 3, 56, 56)
        assert head(features, rois[:0]).logits.shape == (0, 3, 56, 56)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_changes_the_weights_and_its_operations_are_counted(dtype):
    torch.manual_seed(0)
    decoder = RoiAlignDecoder([4], [16], (64, 64), **SMALL, depth=1)
    before = [p.clone() for p in decoder.parameters()]
    step = step_of(decoder, dtype)
    after = [p.clone() for p in decoder.parameters()]
    step.run()
    moved = [(a != b).any() for a, b in zip(after, decoder.parameters(), strict=True)]
    assert all(moved) and not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    convolution = 2 * 16 * (4 * 4) * 4 * 4 * 9  # 16 ROIs; forward, and back to weights and input
    assert step.flops > 3 * convolution
    assert step.parameters == sum(p.numel() for p in decoder.parameters())


@pytest.mark.realdata
def test_exported_ways_give_the_masks_that_pytorch_gives(realdata, tmp_path):
    extractor = yolox(threads=1)
    torch.manual_seed(0)
    decoder = configured("roialign", ONE_LAYER, ["mid_channels=16", "depth=1"])
    found = export.ways(decoder, extractor, tmp_path)
    rois = export.person_rois(2)
    assert rois.dtype == np.float32 and (rois[:, 2:] <= 1).all() and (rois[:, 2:] > rois[:, :2]).all()
    expected = found.pop(export.EAGER)(rois).numpy()
    found.pop(export.EXTRACTOR)
    assert len(found) == 4
    for name, way in found.items():
        np.testing.assert_allclose(way(rois), expected, atol=2e-2 if "16" in name else 1e-4, err_msg=name)


@pytest.mark.realdata
def test_both_heads_train_on_the_same_rois(realdata, tmp_path):
    results = head_quality.compare(tmp_path, steps=2, rois=2)
    for decoder, result in results.values():
        assert len(result.batches) == 2
        assert result.speed > 0
        assert 0 <= result.metrics["val/target_iou"] <= 1
        assert {b.targets.shape[1:] for b in result.batches} == {decoder.output_size}


def test_every_assumption_is_printed_with_its_source_and_can_be_given(capsys):
    coco_cost.main(["--images", "1234", "--model", "coarse", "--disk-gbs", "7.5"])
    printed = capsys.readouterr().out
    assert "1,234" in printed and "7.5" in printed and "coarse" in printed
    assert set(coco_cost._SOURCES) == set(Assumptions.__dataclass_fields__)


def test_every_stored_row_is_read_back_in_every_round(tmp_path):
    held, keys = cache.fill(tmp_path, (4, 5, 6), images=7)
    for cold in (False, True):
        floor, ours = cache.against_bare_reads(held, keys, rounds=2, cold=cold)
        assert len(floor) == len(ours) == 2
        assert min(floor + ours) > 0


def test_all_ways_paste_the_same_masks():
    size = (90, 120)
    masks, boxes = persons(5, size)
    results = {name: list(way(masks, boxes, size)) for name, way in WAYS.items()}
    exact = results.pop("all canvases at once")
    for found in results.values():
        assert agreement(found, exact) > 0.99
    assert results["one canvas after another"] == results["ours: windows"]


@pytest.fixture(scope="module")
def sets(coco_set):
    annotations = load_annotations(coco_set.json)
    polygons = [scene for scene in scenes(annotations) if not len(scene.outlines.runs)]
    return {"polygons": polygons, "RLE": scenes(as_rle(annotations))}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", ["polygons", "RLE"])
def test_our_targets_are_exact_and_the_usual_ones_near(sets, spec, kind):
    truth = [exact(spec, scene) for scene in sets[kind]]
    assert sum(inside.sum() for inside, _ in truth) > 1000
    assert wrong(ours, spec, sets[kind], truth) == 0
    assert 0 < wrong(usual, spec, sets[kind], truth) < 0.2


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_ways_label_alike(sets, spec):
    for scene in sets["RLE"]:
        np.testing.assert_array_equal(ours(spec, scene), looked_up(spec, scene))
    for scene in sets["polygons"]:
        assert (ours(spec, scene) != straight(spec, scene, finer=3)).mean() < 0.01
        assert (ours(spec, scene) != usual(spec, scene)).mean() < 0.1


@pytest.mark.realdata
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


@pytest.mark.realdata
def test_an_epoch_and_the_passes_over_its_batches_are_timed(realdata, tmp_path):
    run = make_run(tmp_path, *REAL, *epoch.COMPUTED["small roialign (32 channels)"])
    times = epoch.measure(run, tmp_path, epochs=1)
    assert len(times.epoch) == len(times.decoder) == len(times.extractor) == 1
    assert min(times.epoch + times.decoder + times.extractor) > 0


@pytest.mark.realdata
def test_steps_and_epochs_of_compact_features_are_timed(realdata, capsys):
    few = [f"--{name}=1" for name in ("persons", "epochs", "online-epochs", "rounds")]
    compact.main([*few, "--images=4", "--project=16"])
    printed = " ".join(capsys.readouterr().out.split())  # the title may be wrapped
    assert "128 x 52 x 52 to 16 channels" in printed and "online" in printed


@pytest.mark.realdata
def test_a_learned_projection_is_found_in_its_folder_and_not_overwritten(realdata, tmp_path, capsys):
    options = [
        *REAL, "data/augment=null", "data/cache=disk", "extractor.project=16", "trainer.max_epochs=1",
        "+trainer.limit_train_batches=2",
    ]  # fmt: skip
    learned, own = tmp_path / "learned", tmp_path / "own"
    learned_projection.main([str(learned), *options])
    found, fitted = (
        make_run(tmp_path, *options, f"paths.index_dir={index}").data.extractor.projection
        for index in (learned, own)
    )
    (path,), (other,) = learned.glob("*.pt"), own.glob("*.pt")
    assert path.name == other.name and str(path) in capsys.readouterr().out
    assert found.channels == fitted.channels and found.digest != fitted.digest
    for (name, before), (_, after) in zip(fitted.named_buffers(), found.named_buffers(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0.1 * float(before.abs().max()), msg=name)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists: give another folder"):
        learned_projection.main([str(learned), *options])
    assert path.read_bytes() == before
