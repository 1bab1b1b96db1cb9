from __future__ import annotations

import pytest
from helpers import user_error
from run_folders import noisy, write_run

from roiseg.reporting.runs import read_run
from roiseg.reporting.variants import find_variants


@pytest.fixture
def made(tmp_path):
    """Make runs: `made((overrides, settings), ...)`."""

    def make(*runs):
        found = []
        for number, (overrides, settings) in enumerate(runs):
            folder = write_run(tmp_path / str(number), noisy(0.5), overrides=overrides, **settings)
            found.append(read_run(folder))
        return found

    return make


def names(runs, by=()):
    return [variant.name for variant in find_variants(runs, by)[0]]


CLASSES = [
    (["model.num_classes=2"], {"model__num_classes": 2}),
    (["model.num_classes=3"], {}),
]
UNET = (["model=unet"], {"model___target_": "roiseg.decoders.unet.UNetDecoder", "model__depth": 3})
HEAVY = (["data/augment=heavy"], {"data__augment__flip": 0.7, "data__augment__scale": 1.5})


def test_overrides_name_the_variants(made):
    assert names(made(*CLASSES)) == ["model.num_classes=2", "model.num_classes=3"]


def test_a_whole_choice_is_one_name_and_nothing_given_is_the_base(made):
    assert names(made(([], {}), UNET, HEAVY)) == ["base", "model=unet", "data/augment=heavy"]


def test_what_all_were_given_is_left_out(made):
    shared = ["experiment=best", "trainer.max_epochs=10"]
    runs = [([*shared, *given], settings) for given, settings in (*CLASSES, UNET)]
    assert names(made(*runs)) == ["model.num_classes=2", "model.num_classes=3", "model=unet"]


def test_an_experiment_that_differs_is_a_name(made):
    found = names(made((["experiment=a"], {"trainer__max_epochs": 5}), (["experiment=b"], {})))
    assert found == ["experiment=a", "experiment=b"]


def test_packages_and_deletions_are_shown_as_they_act(made):
    term = ["model@model.first=unet"]
    runs = made((term, {"model__first__depth": 3}), (["~callbacks.ema"], {}), ([], {"callbacks__ema": 1}))
    assert names(runs) == ["model.first=unet", "~callbacks.ema", "base"]


def test_seed_fold_folders_and_loaders_make_no_variant(made):
    runs = made(
        (["data.folds.held_out=0"], {"fold": 0, "seed": 1}),
        (["data.folds.held_out=1", "seed=2"], {"fold": 1, "seed": 2, "ckpt_path": "/x.pth"}),
        (
            ["data.num_workers=0", "logger=[]"],
            {"fold": 2, "seed": 2, "data__num_workers": 0, "logger": None},
        ),
        (
            ["trainer=gpu"],
            {"fold": 3, "seed": 2, "trainer__accelerator": "gpu", "callbacks__overlays": {"x": 1}},
        ),
        (["+sweep=joblib"], {"fold": 4, "extractor__threads": 2, "data__cache": {"folder": "/c"}}),
    )
    (only,), besides = find_variants(runs)
    assert (only.name, besides, only.differing) == ("base", [], {})
    assert list(only.runs) == [(0, (1,)), (1, (2,)), (2, (2,)), (3, (2,)), (4, (0,))]


def test_an_option_that_is_null_is_as_good_as_one_that_did_not_exist(made):
    assert names(made(([], {"seed": 1, "model__new": None}), ([], {"seed": 2}))) == ["base"]


def test_another_detector_under_the_same_path_is_another_variant(made):
    digests = ["a" * 64, "b" * 64, "a" * 64]
    runs = made(
        *(
            ([], {"summary": {"extractor_sha256": digest}, "seed": seed})
            for seed, digest in enumerate(digests)
        )
    )
    assert names(runs) == [f"extractor.sha256={'a' * 12}", f"extractor.sha256={'b' * 12}"]


def test_labels_win(made):
    plain = (["variant=plain"], {"variant": "plain"})
    other = (["variant=two", "model.num_classes=2"], {"variant": "two", "model__num_classes": 2})
    assert names(made(plain, other, UNET)) == ["plain", "two", "model=unet"]


def test_one_label_for_two_settings_is_told_apart(made):
    runs = [(given, {"variant": "mine", **settings}) for given, settings in CLASSES]
    assert names(made(*runs)) == ["mine, model.num_classes=2", "mine, model.num_classes=3"]


def test_without_overrides_the_fewest_values_name_the_variants(made):
    runs = made(
        ([], {"model__num_classes": 2, "model__first": {"num_classes": 2}}),
        ([], {"model__num_classes": 3, "model__first": {"num_classes": 3}}),
        ([], {"model__num_classes": 3, "model__first": {"num_classes": 3}, "model__film": 1.0}),
    )
    assert names(runs) == [
        "model.film=null, model.num_classes=2",
        "model.film=null, model.num_classes=3",
        "model.film=1.0, model.num_classes=3",
    ]
    runs = [run for run in runs if run.config["model.film"] is None]
    assert names(runs) == ["model.num_classes=2", "model.num_classes=3"]
    assert find_variants(runs)[0][0].differing == {"model.num_classes": 2, "model.first.num_classes": 2}


def test_settings_that_changed_behind_equal_overrides_are_told_apart(made):
    given = ["model=unet"]
    runs = made(
        (given, {"model__depth": 3}), (given, {"model__depth": 4}), (["model=sam"], {"model__depth": 1})
    )
    assert names(runs) == ["model=unet, model.depth=3", "model=unet, model.depth=4", "model=sam"]


def test_by_tells_apart_and_pairs_the_rest(made):
    runs = made(*[
        ([f"model.num_classes={n}", f"optimizer.lr={lr}"], {"model__num_classes": n, "optimizer__lr": lr})
        for n in (2, 3) for lr in (0.1, 0.2)
    ])  # fmt: skip
    assert len(find_variants(runs)[0]) == 4
    variants, besides = find_variants(runs, ["model.num_classes"])
    assert [variant.name for variant in variants] == ["model.num_classes=2", "model.num_classes=3"]
    assert besides == ["optimizer.lr"]
    assert list(variants[0].runs) == list(variants[1].runs) == [(None, (0, "0.1")), (None, (0, "0.2"))]
    assert names(runs, ["optimizer", "model.num_classes"])[0] == "model.num_classes=2, optimizer.lr=0.1"


def test_by_a_group(made):
    assert names(made(([], {}), HEAVY, ([], {"seed": 1})), ["data/augment"]) == ["base", "data/augment=heavy"]


def test_by_a_key_that_is_nowhere(made):
    text = user_error(find_variants, made(([], {})), ["model.num_class"])
    assert "model.num_class" in text
    assert "model.num_classes" in text


def test_two_unlike_runs_of_one_seed_and_fold_are_refused(made, tmp_path):
    same = made(([], {"fold": 1}), ([], {"fold": 1}))
    (only,), _ = find_variants(same)
    assert [run.folder for run in only.runs.values()] == [tmp_path / "0"]  # a repetition, figure by figure
    other = read_run(write_run(tmp_path / "2", noisy(0.6), fold=1))
    text = user_error(find_variants, [*same, other])
    assert all(
        word in text for word in [str(tmp_path / "0"), str(tmp_path / "2"), "seed 0", "fold 1", "variant="]
    )
