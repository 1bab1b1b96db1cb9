"""Cross-validation splits."""

import hashlib

import numpy as np
import pytest
from test_join_and_select import write

from roiseg.common.errors import UserError
from roiseg.data.folds import Folds


def test_each_image_is_held_out_once_and_trained_on_otherwise(tmp_path):
    whole = write(tmp_path, range(1, 41))
    held_out = []
    for number in range(5):
        split = Folds(5, number).split(whole)
        held_out += split["val"].image_ids.tolist()
        assert sorted([*split["train"].image_ids, *split["val"].image_ids]) == list(range(1, 41))
    assert sorted(held_out) == list(range(1, 41))


def test_an_image_keeps_its_part_whatever_else_is_in_the_set():
    ids = np.array([*range(1000), -5, 2**40])
    parts = Folds(5).parts(ids)
    order = np.random.default_rng(0).permutation(len(ids))[:300]
    np.testing.assert_array_equal(Folds(5).parts(ids[order]), parts[order])
    assert np.bincount(parts).min() > 160  # about equal


def test_parts_are_the_published_hash(tmp_path):
    """Figures of other people's folds compare only while the parts stay what they are."""
    parts = Folds(5).parts(np.arange(1, 641))
    assert hashlib.sha256(bytes(parts.astype(np.uint8))).hexdigest()[:16] == "2e2df7791146f74f"


def test_an_empty_part_is_refused(tmp_path):
    whole = write(tmp_path, [1, 2])
    with pytest.raises(UserError, match=r"data\.folds: with 2 images in 50 parts, none is held out"):
        Folds(50, int(np.setdiff1d(np.arange(50), Folds(50).parts(whole.image_ids))[0])).split(whole)
