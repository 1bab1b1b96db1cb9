import pytest
from helpers import user_error
from run_folders import noisy, rois, write_run

from roiseg.reporting.runs import read_run, read_runs
from roiseg.reporting.variants import check_comparable

ALL = noisy(0.5)


def runs_of(folder):
    return read_runs([folder])[0]


def refused(first, second):
    """The message, which names both runs."""
    text = user_error(check_comparable, [first, second])
    assert f"{first.folder} and {second.folder} cannot be compared" in text
    return text


def changed(**values):
    return {"rows": [row | (values if i == 4 else {}) for i, row in enumerate(rois())]}


# field or kind: settings of the second run, words of the message
DIFFERENT = {
    "ROIs": (changed(annotation_id=99), ["2 test ROIs", "in one only"]),
    "val rois": ({"rows": rois()[:-1]}, []),
    "`boxes`": (changed(x2=60.2), ["annotation 4 of image 1", "50.0", "60.2"]),
    "`area`": (changed(area=2001), ["2000", "2001"]),
    "`non_target_share`": (changed(non_target_share=0.2), ["0.05", "0.2"]),
    "data.min_roi_size": ({"data__min_roi_size": 8}, ["16 in the first", "8 in the second"]),
    "data.metric_size": ({"data__metric_size": [28, 28]}, ["[56, 56]", "[28, 28]"]),
    "data.category_id": ({"data__category_id": 2}, ["2 in the second"]),
    "data.val_annotations": ({"data__val_annotations": "/data/other.json"}, ["val.json", "other.json"]),
    "data.train_annotations": ({"data__train_annotations": "/data/t_100.json"}, ["train.json", "t_100.json"]),
    "test_best": ({"test_best": True}, ["False", "True"]),
    "number of train images": (
        {"summary": {"data": {"train_images": 40, "train_rois": 161, "val_images": 15, "val_rois": 18}}},
        ["46 in the first and 40"],
    ),
    "data.folds.number": ({"data__folds": {"number": 4, "held_out": 0}}, ["None in the first", "4"]),
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_other_data_rois_or_metric_are_refused(tmp_path, field):
    settings, words = DIFFERENT[field]
    a = read_run(write_run(tmp_path / "a", ALL))
    b = read_run(write_run(tmp_path / "b", ALL[: len(settings.get("rows", ALL))], **settings))
    text = refused(a, b)
    assert all(word in text for word in [field, *words]), text


def test_what_is_learned_and_where_files_lie_may_differ(tmp_path):
    a = read_run(write_run(tmp_path / "a", ALL))
    b = read_run(write_run(
        tmp_path / "b", noisy(0.7), seed=3, model__num_classes=2, extractor__layers=["952", "717"],
        data__val_annotations="/elsewhere/val.json", data__val_images="/elsewhere/val",
    ))  # fmt: skip
    folds = check_comparable([a, b])
    assert list(folds) == [None]
    assert folds[None].names == a.rois.names


def test_other_numbers_of_training_images_need_other_limits_or_extra_ones(tmp_path):
    counts = {"train_images": 20, "train_rois": 80, "val_images": 15, "val_rois": 18}
    a = read_run(write_run(tmp_path / "a", ALL))
    b = read_run(write_run(tmp_path / "b", ALL, data__train_limit=20, summary={"data": counts}))
    more = {"data": counts | {"train_images": 300}}
    d = read_run(write_run(tmp_path / "d", ALL, data__extra_annotations="e.json", summary=more))
    check_comparable([a, b, d])
    others = {"data": counts | {"val_images": 14}}
    c = read_run(write_run(tmp_path / "c", ALL, data__train_limit=20, summary=others))
    assert "number of val images" in refused(a, c)


def test_an_evaluation_does_not_hide_that_two_runs_differ_in_training_images(tmp_path):
    evaluated = {"data": {"val_images": 15, "val_rois": len(rois())}}
    first = read_run(write_run(tmp_path / "evaluated", ALL, summary=evaluated))
    a = read_run(write_run(tmp_path / "a", ALL))
    other = {"data": evaluated["data"] | {"train_images": 45, "train_rois": 161}}
    b = read_run(write_run(tmp_path / "b", ALL, summary=other))
    check_comparable([first, a])
    assert "number of train images" in user_error(check_comparable, [first, a, b])


def test_boxes_may_be_off_by_the_rounding_of_another_input_size(tmp_path):
    a = read_run(write_run(tmp_path / "a", ALL))
    b = read_run(write_run(tmp_path / "b", ALL, rows=[row | {"x1": row["x1"] + 0.02} for row in rois()]))
    check_comparable([a, b])


def test_runs_are_compared_fold_by_fold(tmp_path):
    for fold in (0, 1):
        for seed in (1, 2):
            write_run(tmp_path / f"{fold}{seed}", ALL, seed=seed, fold=fold)
    folds = check_comparable(runs_of(tmp_path))
    assert sorted(folds) == [0, 1]
    assert set(folds[1].images.tolist()) == {"100", "101", "102", "103", "104", "105"}
    write_run(tmp_path / "13", ALL, seed=3, fold=1, rows=rois(fold=2))
    text = user_error(check_comparable, runs_of(tmp_path))
    assert f"{tmp_path / '11'} and {tmp_path / '13'} cannot" in text


def test_folds_that_share_an_image_are_refused(tmp_path):
    a = read_run(write_run(tmp_path / "a", ALL, fold=0))
    b = read_run(write_run(tmp_path / "b", ALL, fold=1, rows=rois(fold=0)))
    assert "both test on image 0" in refused(a, b)
