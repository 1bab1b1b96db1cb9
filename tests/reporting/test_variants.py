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


CLASSES = [(["model.num_classes=2"], {"model__num_classes": 2}), (["model.num_classes=3"], {})]
UNET = (["model=unet"], {"model___target_": "roiseg.decoders.unet.UNetDecoder", "model__depth": 3})
HEAVY = (["data/augment=heavy"], {"data__augment__flip": 0.7, "data__augment__scale": 1.5})


SHARED = ["experiment=best", "trainer.max_epochs=10"]
NAMED = {
    "by overrides": (CLASSES, ["model.num_classes=2", "model.num_classes=3"]),
    "by a whole choice, or base": ([([], {}), UNET, HEAVY], ["base", "model=unet", "data/augment=heavy"]),
    "without what all were given": (
        [([*SHARED, *given], settings) for given, settings in (*CLASSES, UNET)],
        ["model.num_classes=2", "model.num_classes=3", "model=unet"],
    ),
    "base if none but what all were given": (
        [(["experiment=a"], {"model__depth": 2}), (["experiment=a", "model.depth=3"], {"model__depth": 3})],
        ["base", "model.depth=3"],
    ),
    "by an experiment that differs": (
        [(["experiment=a"], {"trainer__max_epochs": 5}), (["experiment=b"], {})], ["experiment=a", "experiment=b"],
    ),
    "by packages and deletions as they act": (
        [(["model@model.first=unet"], {"model__first__depth": 3}), (["~callbacks.ema"], {}), ([], {"callbacks__ema": 1})],
        ["model.first=unet", "~callbacks.ema", "base"],
    ),
    "not by an option that is null": ([([], {"seed": 1, "model__new": None}), ([], {"seed": 2})], ["base"]),
    "by a detector of another content": (
        [([], {"summary": {"extractor_sha256": 64 * digest}, "seed": seed}) for seed, digest in enumerate("aba")],
        [f"extractor.sha256={'a' * 12}", f"extractor.sha256={'b' * 12}"],
    ),
    "by labels": (
        [(["variant=plain"], {"variant": "plain"}),
         (["variant=two", "model.num_classes=2"], {"variant": "two", "model__num_classes": 2}), UNET],
        ["plain", "two", "model=unet"],
    ),
    "not by teachers, which each fold has of its own": (
        [(["experiment=fast", f"distillation.teachers=[one_{fold}]"],
          {"fold": fold, "distillation__teachers": [f"one_{fold}"]}) for fold in (0, 1)] + [([], {"fold": 0})],
        ["experiment=fast", "base"],
    ),
    "not by the folders of extra annotations, which each fold has of its own": (
        [([f"data.extra_annotations=out_{fold}/predicted.json"],
          {"fold": fold, "data__extra_annotations": f"out_{fold}/predicted.json"}) for fold in (0, 1)]
        + [([], {"fold": 0})],
        ["data.extra_annotations=predicted.json", "data.extra_annotations=null"],
    ),
    "by values where equal runs were given in different ways": (
        [(["experiment=a"], {"model__depth": 3, "seed": 1}),
         (["model=unet", "model.depth=3"], {"model__depth": 3, "seed": 2}), (["experiment=b"], {"model__depth": 2})],
        ["model.depth=3", "model.depth=2"],
    ),
    "by interpolations as they were typed, which a sweep escapes": (
        [([rf"model.mid=$\{{model.{key}\}}"], {"model__mid": size}) for key, size in (("small", 8), ("large", 16))],
        ["model.mid=${model.small}", "model.mid=${model.large}"],
    ),
    "as a sweep of Hydra escapes text": (
        [([rf"data.note={word}\,\ b"], {"data__note": f"{word}, b"}) for word in "ac"],
        ["data.note=a, b", "data.note=c, b"],
    ),
    "by label and setting where one label has two": (
        [(given, {"variant": "mine", **settings}) for given, settings in CLASSES],
        ["mine, model.num_classes=2", "mine, model.num_classes=3"],
    ),
    "by settings behind equal overrides": (
        [(["model=unet"], {"model__depth": 3}), (["model=unet"], {"model__depth": 4}), (["model=sam"], {"model__depth": 1})],
        ["model=unet, model.depth=3", "model=unet, model.depth=4", "model=sam"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_variants_are_named(made, case):
    runs, expected = NAMED[case]
    assert names(made(*runs)) == expected


def test_seed_fold_folders_and_loaders_make_no_variant(made):
    runs = made(
        (["data.folds.held_out=0"], {"fold": 0, "seed": 1}),
        (["data.folds.held_out=1", "seed=2"], {"fold": 1, "seed": 2, "ckpt_path": "/x.pth"}),
        (["data.num_workers=0", "logger=[]"], {"fold": 2, "seed": 2, "data__num_workers": 0, "logger": None}),
        (["trainer=gpu"], {"fold": 3, "seed": 2, "trainer__accelerator": "gpu", "callbacks__overlays": {}}),
        (["+sweep=joblib"], {"fold": 4, "extractor__threads": 2, "data__cache": {"folder": "/c"}}),
    )
    (only,), besides = find_variants(runs)
    assert (only.name, besides, only.differing) == ("base", [], {})
    assert list(only.runs) == [(0, (1,)), (1, (2,)), (2, (2,)), (3, (2,)), (4, (0,))]


def test_without_overrides_the_fewest_values_name_the_variants(made):
    runs = made(
        ([], {"model__num_classes": 2, "model__first": {"num_classes": 2}}),
        ([], {"model__num_classes": 3, "model__first": {"num_classes": 3}}),
        ([], {"model__num_classes": 3, "model__first": {"num_classes": 3}, "model__film": 1.0}),
    )
    assert names(runs) == [
        "model.film=null, model.num_classes=2", "model.film=null, model.num_classes=3",
        "model.film=1.0, model.num_classes=3",
    ]  # fmt: skip
    runs = [run for run in runs if run.config["model.film"] is None]
    assert names(runs) == ["model.num_classes=2", "model.num_classes=3"]
    assert find_variants(runs)[0][0].differing == {"model.num_classes": 2, "model.first.num_classes": 2}


def test_without_overrides_other_classes_name_the_variants_first(made):
    decoders = [("unet.UNetDecoder", 3), ("roialign.RoiAlignDecoder", 4), ("condinst.CondInstDecoder", None)]
    runs = made(*[
        ([], {"model___target_": f"roiseg.decoders.{name}", "model__depth": depth}) for name, depth in decoders
    ])  # fmt: skip
    assert names(runs) == [f"model._target_={name.rpartition('.')[2]}" for name, _ in decoders]


def test_with_evaluations_values_name_all_since_their_overrides_are_unknown(made):
    evaluated = {"summary": {"data": {"val_images": 6, "val_rois": 18}}, "tta__hflip": True}
    three, two = ([*SHARED, *given] for given, _ in CLASSES[::-1])
    found = names(made((three, {}), (two, CLASSES[0][1]), ([], evaluated), ([], evaluated | CLASSES[0][1])))
    assert found == [
        "tta.hflip=null, model.num_classes=3", "tta.hflip=null, model.num_classes=2",
        "tta.hflip=true, model.num_classes=3", "tta.hflip=true, model.num_classes=2",
    ]  # fmt: skip


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


def test_two_unlike_runs_of_one_seed_and_fold_are_refused(made, tmp_path):
    same = made(([], {"fold": 1}), ([], {"fold": 1}))
    (only,), _ = find_variants(same)
    assert [run.folder for run in only.runs.values()] == [tmp_path / "0"]  # a repetition, figure by figure
    other = read_run(write_run(tmp_path / "2", noisy(0.6), fold=1))
    text = user_error(find_variants, [*same, other])
    assert all(str(word) in text for word in [tmp_path / "0", tmp_path / "2", "seed 0", "fold 1", "variant="])
