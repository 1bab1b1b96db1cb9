"""From class probabilities to masks, against a definition pixel by pixel."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import onnx_session
from tiny_run import fit, tiny_data, tiny_decoder, tiny_extractor, with_random_weights

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.callbacks.decision import FitDecision
from roiseg.data.batch import RoiPrediction
from roiseg.data.images import read_image
from roiseg.evaluation.decision_fit import DecisionFit
from roiseg.geometry.paste import largest, owned
from roiseg.inference import decision as module
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import ImageRois, Threshold, Votes, mask_scores
from roiseg.inference.model import TorchModel, open_model
from roiseg.inference.predictor import Predictor
from roiseg.metrics.mask_score import Calibration
from roiseg.onnx_export.export import ExportOptions, export_model

SIZE = (24, 32)  # (H, W) of the input
SIDE = 8  # of every ROI, in pixels and in cells, so that grids and image agree
VOTES = Votes(exclusive=True, weight=0.5, bias=0.2, score_slope=0.4, score_offset=0.7)
CORNERS = [(2, 4), (6, 4), (6, 8), (20, 2)]  # the first three overlap, the last is alone


def prediction(classes, seed=0, corners=CORNERS):
    """Random probabilities on ROIs of SIDE x SIDE pixels: (prediction, rois)."""
    generator = torch.Generator().manual_seed(seed)
    shares = (3 * torch.randn(len(corners), classes, SIDE, SIDE, generator=generator)).softmax(dim=1)
    boxes = torch.tensor([[x, y, x + SIDE, y + SIDE] for x, y in corners]).float().reshape(-1, 4)
    rois = torch.cat([torch.zeros(len(corners), 1), boxes], dim=1)
    other = shares[:, 2] if classes == 3 else None
    return RoiPrediction(shares[:, 1], other, boxes, shares[:, 1], shares.argmax(dim=1)), rois


def votes_by_pixel(shares, weight, bias):
    """The definition of `Votes`, one ROI and one pixel at a time."""
    wanted = np.zeros((len(CORNERS), SIDE, SIDE))
    for roi, y, x in itertools.product(range(len(CORNERS)), range(SIDE), range(SIDE)):
        place = (CORNERS[roi][0] + x, CORNERS[roi][1] + y)
        mine, person, nobody = (shares[roi, k, y, x] for k in (1, -1 if shares.shape[1] == 3 else 0, 0))
        scores = [math.log(mine) + bias, math.log(person), math.log(nobody)]
        others = []
        for other, (left, top) in enumerate(CORNERS):
            row, column = place[1] - top, place[0] - left
            if other != roi and 0 <= row < SIDE and 0 <= column < SIDE:
                others.append(shares[other, :, row, column])
        if others:
            not_mine = [math.log(max(p[-1] if len(p) == 3 else p[0], 1e-3)) for p in others]
            nobodys = [math.log(max(p[0], 1e-3)) for p in others]
            none = math.prod(max(1 - p[1], 1e-3) for p in others)
            votes = [sum(not_mine), math.log(max(1 - none, 1e-3)), sum(nobodys)]
            scores = [score + weight * vote for score, vote in zip(scores, votes, strict=True)]
        wanted[roi, y, x] = 1 / (1 + math.exp(max(scores[1:]) - scores[0]))
    return wanted


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("weight", "bias"), [(0.0, 0.0), (0.0, 0.7), (0.4, 0.3), (1.0, -0.5)])
def test_votes_follow_their_definition(classes, weight, bias):
    found, rois = prediction(classes)
    got = Votes(weight=weight, bias=bias)(found, rois, SIZE).masks
    np.testing.assert_allclose(got, votes_by_pixel(found.classes().numpy(), weight, bias), atol=1e-4)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_a_threshold_is_one_of_the_probability(threshold):
    found, rois = prediction(3)
    got = Threshold(threshold=threshold)(found, rois, SIZE).masks
    assert torch.equal(got >= 0.5, found.target >= threshold)
    assert (threshold != 0.5) or torch.equal(got, found.target)


def test_images_do_not_vote_for_each_other_and_many_rois_are_added_up_in_parts(monkeypatch):
    (a, rois), (b, _) = prediction(3, 0), prediction(3, 1)
    both = RoiPrediction.map_tensors(torch.cat, a, b)
    second = rois + torch.tensor([2.0, 0, 0, 0, 0])  # image 1 has no ROI
    vote = Votes(weight=0.5, bias=0.1)
    wanted = torch.cat([vote(one, rois, SIZE).masks for one in (a, b)])
    for at_once in (module._AT_ONCE, 3):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        got = vote(both, torch.cat([rois, second]), SIZE).masks
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decision", [Threshold(), Votes(weight=0.4, bias=0.3), Votes(exclusive=True)])
def test_no_roi_gives_no_mask(decision):
    found, rois = prediction(3, corners=[])
    assert decision(found, rois, SIZE).masks.shape == (0, SIDE, SIDE)


def test_a_fit_finds_the_numbers_with_the_largest_score():
    def distance(votes):
        return -abs(votes.weight - 0.4) - abs(votes.bias - 0.3)

    assert Votes().fitted(distance) == Votes(weight=0.4, bias=0.3)
    assert Votes(weight=0.0).fitted(distance) == Votes(weight=0.0, bias=0.3)
    assert Threshold(threshold=None).fitted(lambda t: -abs(t.threshold - 0.4)).threshold == pytest.approx(0.4)
    given = Votes(weight=0.7, bias=0.1)
    assert given.fitted(distance) == given
    assert Votes().fitted(lambda votes: 0.0) == Votes(weight=0.0, bias=0.0)  # of equal ones the plainest


def test_a_mask_score_is_the_expected_iou_within_the_roi():
    found, rois = prediction(3)
    rois[:, 1] += 2  # the grids are wider than the ROIs
    mask = np.random.default_rng(0).random((len(CORNERS), SIDE, SIDE)) > 0.4
    mask[-1] = False
    image = ImageRois(found.classes(), found.extents, rois[:, 1:], SIZE)
    for calibration in (Calibration(), Calibration(0.4, 0.7)):
        got = mask_scores(image, torch.from_numpy(mask).float(), calibration)
        for roi in range(len(CORNERS) - 1):
            shares, inside = found.target[roi, :, 2:].numpy().astype(float), mask[roi, :, 2:]
            expected = shares[inside].sum() / (inside.sum() + shares[~inside].sum())
            logit = calibration.slope * math.log(expected / (1 - expected)) + calibration.offset
            assert got[roi] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
        assert got[-1] == 0  # an empty mask
    decided = Votes(weight=0.3, bias=0.2, score_slope=0.4, score_offset=0.7)(found, rois, SIZE)
    wanted = mask_scores(image, decided.masks, Calibration(0.4, 0.7))
    torch.testing.assert_close(decided.scores, wanted)


def test_exclusive_masks_share_no_pixel_and_leave_none_out():
    rng = np.random.default_rng(0)
    crops = [(rng.random((SIDE, SIDE), np.float32), (x, y, x + SIDE, y + SIDE)) for x, y in CORNERS]
    owners = largest(crops, SIZE)
    count, plain = np.zeros(SIZE, int), np.zeros(SIZE, bool)
    for index, (values, (x1, y1, x2, y2)) in enumerate(crops):
        count[y1:y2, x1:x2] += owned(index, values, (x1, y1, x2, y2), owners)
        plain[y1:y2, x1:x2] |= owned(index, values, (x1, y1, x2, y2), None)
    assert count.max() == 1
    assert np.array_equal(count == 1, plain)


@pytest.fixture(scope="module")
def fitted(coco_set, onnx_file, tmp_path_factory):
    """A run that fits its decision: (checkpoint, callback)."""
    folder = tmp_path_factory.mktemp("fitted") / "checkpoints"
    callback = FitDecision()
    callbacks = [EpochCheckpoint(folder, [64, 64]), callback]
    trainer, *_ = fit(coco_set, onnx_file, folder.parent, callbacks, decision=Votes(exclusive=True))
    return trainer.checkpoint_callback.best_model_path, callback


def test_a_fitted_decision_is_in_the_checkpoint(fitted, coco_set):
    checkpoint, callback = fitted
    decision = load_model(checkpoint).decision
    assert decision.unfitted == [] and decision.exclusive
    assert decision.score_slope is not None and decision.score_offset is not None
    assert callback.fitted_on == "fitted on 10 ROIs of the validation images"
    assert open_model(checkpoint).decision == decision
    assert open_model(checkpoint, decision=Threshold()).decision == Threshold()


@pytest.mark.slow  # exports; in short in test_onnx_boxes.py
@pytest.mark.parametrize(("decision", "classes"), [(Threshold(threshold=0.3), 2), (VOTES, 3)])
def test_an_exported_file_decides_alike(decision, classes, onnx_file, fitted, tmp_path):
    model = load_model(fitted[0])
    decoder = with_random_weights(tiny_decoder(tiny_extractor(onnx_file), num_classes=classes).eval(), 0.2)
    model = replace(model, decoder=decoder, decision=decision)
    check = export_model(model, tmp_path / "model.onnx", ExportOptions())  # with 0, 1 and 3 random ROIs
    assert check.random <= 1e-4
    session = onnx_session(tmp_path / "model.onnx")
    rois = np.float32([[0.1, 0.1, 0.6, 0.9], [0.3, 0.2, 0.9, 0.8], [0.2, 0.1, 0.8, 1.0]])
    (feature,) = (one for one in session.get_inputs() if one.name != "rois")
    values = np.random.default_rng(0).normal(size=feature.shape).astype(np.float32)
    masks = session.run(None, {feature.name: values, "rois": rois})[0] >= 0.5
    assert not decision.exclusive or masks.sum(axis=0).max() <= 1


def test_the_predictor_decides_over_all_boxes_of_an_image(fitted, coco_set, monkeypatch):
    boxes = [[10, 12, 49, 70], [36, 12, 80, 68], [20, 5, 70, 75]]
    predictor = Predictor.from_checkpoint(fitted[0], decision=Votes(True, 0.5, 0.2))
    predictor.set_image(read_image(coco_set.images / "a.jpg"))
    masks = predictor.predict(boxes).masks()
    assert masks.sum(axis=0).max() <= 1
    monkeypatch.setattr("roiseg.inference.predictor._CHUNK", 1)
    assert np.array_equal(predictor.predict(boxes).masks(), masks)


def test_the_test_and_the_predictor_agree(fitted, coco_set, onnx_file):
    extractor = tiny_extractor(onnx_file)
    model = TorchModel(load_model(fitted[0]), extractor, decision=Votes(True, 0.8, -0.4))
    data = tiny_data(coco_set, extractor, model.decoder)
    data.setup()
    fit_ = DecisionFit(model)
    for batch in data.val_dataloader():
        fit_.update(batch)
    masks = fit_.masks(model.decision)
    predictor = Predictor(model)
    for sample, own in itertools.groupby(masks, key=lambda mask: mask.sample):
        own = list(own)
        predictor.set_image(read_image(coco_set.images / sample.file_name))
        found = predictor.predict([mask.roi for mask in own]).masks()
        for mask, again in zip(own, found, strict=True):
            assert np.count_nonzero(mask.canvas() ^ again) <= 0.02 * again.size
