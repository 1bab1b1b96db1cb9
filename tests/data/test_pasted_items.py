"""Items of a data set with people pasted in: what they depend on, and what a cache is asked for."""

from __future__ import annotations

import json
import shutil

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from helpers import hole_rle, person, write_coco

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, AugmentationPool, GeometricAugment, PhotometricAugment, Views
from roiseg.data.batch import collate
from roiseg.data.copy_paste import CopyPaste
from roiseg.data.dataset import RoiDataset
from roiseg.data.feature_loader import FeatureLoader
from roiseg.data.folds import select_images
from roiseg.data.samplers import EpochSampler, RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.extractor.cache.base import CacheResult
from roiseg.geometry.transform import Letterbox

SPEC = TargetSpec("roi", (14, 14), 3, (64, 64))
GEOMETRIC = GeometricAugment(flip=0.5, scale=(0.8, 1.6))
PHOTOMETRIC = PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.8)])
PASTE = CopyPaste(probability=0.7, min_size=16)
IMAGES = 6


class AskedCache:
    """Holds everything, or nothing, and remembers what it was asked for."""

    def __init__(self, held):
        self.hit, self.keys = held, []

    def get(self, key):
        self.keys.append(key)
        return CacheResult(self.hit)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of one to three persons; those of `3.png` and `4.png` are held out in some tests."""
    instances = [
        {"file": f"{n}.png", "segmentation": person(30 + 20 * k, 10 + 3 * n, 40 + 5 * n - 4 * k)}
        for n in range(IMAGES)
        for k in range(1 + n % 3)
    ] + [{"file": "5.png", "segmentation": hole_rle(90, 110, (70, 20, 108, 80), (80, 40, 90, 60))}]
    return write_coco(
        tmp_path_factory.mktemp("pasted"), {f"{n}.png": (90, 110) for n in range(IMAGES)}, instances
    )


def make(files, images=range(IMAGES), paste=PASTE, pool=None, **options):
    annotations = select_images(load_annotations(files.json), np.array(images))
    views = Views(Letterbox((64, 64)), Augment(GEOMETRIC, PHOTOMETRIC, paste), pool)
    return RoiDataset(annotations, files.images, views, SPEC, sampler=RoiSampler(3), **options)


def assert_same(a, b, picture=True):
    assert (a.file_name, a.transform) == (b.file_name, b.transform)
    for name in ("rois", "targets", *(("image",) if picture else ())):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_an_item_is_the_same_in_any_order_and_in_any_worker(files):
    dataset, other = make(files), make(files)
    keys = [(epoch, n) for epoch in range(3) for n in range(IMAGES)]
    first = {key: dataset[key] for key in keys}
    for key in reversed(keys):
        assert_same(first[key], other[key])

    def batches(workers):
        sampler = EpochSampler(IMAGES, seed=1, shuffle=True)
        loader = FeatureLoader(
            dataset, lambda batch: batch, batch_size=2, sampler=sampler, collate_fn=collate,
            num_workers=workers,
        )  # fmt: skip
        return list(loader)

    for alone, worked in zip(batches(0), batches(2), strict=True):
        for name in ("images", "rois", "targets"):
            assert torch.equal(getattr(alone, name), getattr(worked, name))


def test_the_order_of_the_images_is_of_no_account(files):
    """Whom an image gets hangs on the set of cutouts, not on where they are in it."""
    dataset, turned = make(files), make(files, range(IMAGES)[::-1])
    for n in range(IMAGES):
        assert_same(dataset[0, n], turned[0, IMAGES - 1 - n])


def test_people_are_pasted_in_and_are_rois_too(files):
    dataset, plain = make(files), make(files, paste=None)
    more = [
        len(dataset.scenes.sample(n, np.random.default_rng(seed)).eligible)
        - len(plain.scenes.plain(n).eligible)
        for n in range(IMAGES)
        for seed in range(20)
    ]
    assert np.mean(more) > 0.5
    shares = [(t == 2).mean() for e in range(5) for n in range(IMAGES) for t in dataset[e, n].targets]
    before = [(t == 2).mean() for e in range(5) for n in range(IMAGES) for t in plain[e, n].targets]
    assert np.mean(shares) > np.mean(before) + 0.01


def test_every_roi_shows_its_target(files):
    dataset = make(files)
    assert all((t == 1).any() for e in range(10) for n in range(IMAGES) for t in dataset[e, n].targets)


def test_without_pasting_items_are_what_they_were(files):
    """The view is drawn from randomness of its own: where nobody is pasted in, nothing else changes."""
    never, plain = make(files, paste=CopyPaste(0.0, min_size=16)), make(files, paste=None)
    some = make(files)
    same = 0
    for key in [(epoch, n) for epoch in range(4) for n in range(IMAGES)]:
        assert_same(never[key], plain[key])
        if not some.scenes.sample(key[1], rng_of(some, key)).pasted:
            assert_same(some[key], plain[key])
            same += 1
    assert 0 < same < 4 * IMAGES


def rng_of(dataset, key):
    """The randomness of an item without a pool."""
    return np.random.default_rng((dataset.seed, key[0], int(dataset.annotations.image_ids[key[1]])))


# --- what is held out -----------------------------------------------------------------------------


def test_what_is_held_out_is_never_seen(files, tmp_path):
    """Neither images nor annotations of held-out images change anything, and they may be missing."""
    shutil.copytree(files.json.parent, tmp_path / "set")
    spoilt = type(files)(tmp_path / "set" / files.json.name, tmp_path / "set" / "images")
    content = spoilt.content()
    held_out = {4, 5}  # image ids of 3.png and 4.png
    for annotation in content["annotations"]:
        if annotation["image_id"] in held_out:
            annotation["segmentation"] = [[1, 1, 109, 1, 109, 89, 1, 89]]
            annotation["bbox"], annotation["area"] = [1, 1, 108, 88], 108 * 88
    spoilt.json.write_text(json.dumps(content))
    for number in (3, 4):
        (spoilt.images / f"{number}.png").unlink()
    kept = [0, 1, 2, 5]
    dataset, other = make(files, kept), make(spoilt, kept)
    ids = set()
    for epoch in range(10):
        for n in range(len(kept)):
            assert_same(dataset[epoch, n], other[epoch, n])
            ids |= set(dataset.scenes.sample(n, rng_of(dataset, (epoch, n))).ids.tolist())
    assert ids == set(dataset.annotations.ids.tolist())
    everybody = make(files)
    assert len(everybody.annotations.ids) > len(ids)


def test_folds_share_slots_of_pictures_without_pasted_people_only(files):
    pool = AugmentationPool(size=8)
    folds = {}
    for name, kept in (("one", [0, 1, 2, 5]), ("two", [0, 1, 2, 3])):
        cache = AskedCache(held=True)
        dataset = make(files, kept, pool=pool, cache=cache)
        pasted = []
        for epoch in range(20):
            for n in range(3):
                dataset[epoch, n]
                rng = rng_of(dataset, (epoch, n))
                image = int(dataset.annotations.image_ids[n])
                pasted.append(
                    bool(dataset.scenes.sample(n, dataset.views.choose(image, epoch, rng)[1]).pasted)
                )
        folds[name] = cache.keys, pasted
    assert 0 < sum(folds["one"][1]) < len(folds["one"][1])
    keys, pasted = zip(*(folds[name] for name in ("one", "two")), strict=True)
    for a, b, first, second in zip(*keys, *pasted, strict=True):
        assert (a == b) == (not first and not second)
        assert (a.key == b.key) == (not first and not second)


# --- the cache ------------------------------------------------------------------------------------


def test_a_cached_item_is_the_same_but_for_its_picture(files):
    pool = AugmentationPool(size=3)
    plain, held, missed = (
        make(files, pool=pool, cache=cache) for cache in (None, AskedCache(True), AskedCache(False))
    )
    for key in [(epoch, n) for epoch in range(4) for n in range(IMAGES)]:
        want = plain[key]
        assert_same(want, missed[key])
        got = held[key]
        assert_same(want, got, picture=False)
        assert not got.image.size and want.image.size
    assert held.cache.keys == missed.cache.keys


def test_the_same_key_is_the_same_picture_and_seeds_share_them(files):
    pictures = {}
    for seed in (0, 1):
        dataset = make(files, pool=AugmentationPool(size=3), cache=AskedCache(False), seed=seed)
        for key in [(epoch, n) for epoch in range(8) for n in range(IMAGES)]:
            sample = dataset[key]
            known = pictures.setdefault(sample.cache_key, sample.image)
            np.testing.assert_array_equal(known, sample.image)
    assert len(pictures) == 3 * IMAGES
    assert len({key.key for key in pictures}) == 3 * IMAGES


@pytest.fixture
def own_files(files, tmp_path):
    shutil.copytree(files.json.parent, tmp_path / "set")
    return type(files)(tmp_path / "set" / files.json.name, tmp_path / "set" / "images")


def keys_of(files, **options):
    dataset = make(files, pool=AugmentationPool(size=1), cache=AskedCache(True), **options)
    for n in range(len(dataset)):
        dataset[0, n]
    return dataset.cache.keys


ALWAYS = CopyPaste(probability=1.0, min_size=16, behind=0.0)


def test_a_changed_donor_makes_features_stale(own_files):
    """Its image, or its outline: the slot stays, the content does not."""
    before = keys_of(own_files, paste=ALWAYS)
    for number in range(IMAGES):
        if number:  # not the image of item 0 itself
            with open(own_files.images / f"{number}.png", "ab") as stream:
                stream.write(b"another")
    after = keys_of(own_files, paste=ALWAYS)
    assert before[0].key == after[0].key and before[0].fingerprint != after[0].fingerprint
    content = own_files.content()
    for annotation in content["annotations"]:
        if annotation["image_id"] != 1 and isinstance(annotation["segmentation"], list):
            annotation["segmentation"][0][0] += 3  # a corner moves, the box stays
    own_files.json.write_text(json.dumps(content))
    outlined = keys_of(own_files, paste=ALWAYS)
    assert outlined[0].key == after[0].key and outlined[0].fingerprint != after[0].fingerprint


def test_other_settings_have_other_slots(files):
    kinds = [keys_of(files, paste=paste) for paste in (None, ALWAYS, CopyPaste(1.0, min_size=16, behind=0.5))]
    assert len({key.key for keys in kinds for key in keys}) == 3 * IMAGES


def test_a_donor_that_vanishes_is_named(own_files):
    dataset = make(own_files, paste=ALWAYS)
    for number in range(1, IMAGES):
        (own_files.images / f"{number}.png").unlink()
    with pytest.raises(UserError, match=r"image not found: .*\.png"):
        dataset[0, 0]
