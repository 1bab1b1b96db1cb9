"""Items of a data set with people pasted in: what they depend on, and what a cache is asked for."""

import json
import shutil

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from helpers import hole_rle, person, write_coco
from tiny_dataset import assert_same_item

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, AugmentationPool, GeometricAugment, PhotometricAugment, Views
from roiseg.data.copy_paste import CopyPaste
from roiseg.data.dataset import RoiDataset
from roiseg.data.folds import select_images
from roiseg.data.samplers import RoiSampler
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
    sizes = {f"{n}.png": (90, 110) for n in range(IMAGES)}
    return write_coco(tmp_path_factory.mktemp("pasted"), sizes, instances)


def make(files, images=range(IMAGES), paste=PASTE, pool=None, **options):
    annotations = select_images(load_annotations(files.json), np.array(images))
    views = Views(Letterbox((64, 64)), Augment(GEOMETRIC, PHOTOMETRIC, paste), pool)
    return RoiDataset(annotations, files.images, views, SPEC, sampler=RoiSampler(3), **options)


KEYS = [(epoch, n) for epoch in range(4) for n in range(IMAGES)]


def rng_of(dataset, key):
    """The randomness of an item without a pool."""
    return np.random.default_rng((dataset.seed, key[0], int(dataset.annotations.image_ids[key[1]])))


def test_an_item_depends_on_seed_epoch_and_image_only_not_on_the_order_of_items_and_images(files):
    dataset, other, turned = make(files), make(files), make(files, range(IMAGES)[::-1])
    another_seed = make(files, seed=5)
    first = {key: dataset[key] for key in KEYS}
    for n in range(IMAGES):
        assert_same_item(dataset[n], first[0, n])
        assert (first[0, n].image != first[1, n].image).any()
        assert (first[0, n].image != another_seed[0, n].image).any()
        assert (first[0, n].rois != first[1, n].rois).any()
    torch.manual_seed(17)
    for epoch, n in reversed(KEYS):
        assert_same_item(first[epoch, n], other[epoch, n])
        assert_same_item(first[epoch, n], turned[epoch, IMAGES - 1 - n])


def test_people_are_pasted_in_and_are_rois_too(files):
    dataset, plain = make(files), make(files, paste=None)
    more = [
        len(dataset.scenes.sample(n, np.random.default_rng(seed)).eligible)
        - len(plain.scenes.plain(n).eligible)
        for n in range(IMAGES)
        for seed in range(20)
    ]
    assert np.mean(more) > 0.5
    targets, before = (np.concatenate([d[key].targets for key in KEYS]) for d in (dataset, plain))
    assert (targets == 1).any(axis=(1, 2)).all()
    assert (targets == 2).mean() > (before == 2).mean() + 0.01


def test_without_pasting_items_are_what_they_were(files):
    """The view is drawn from randomness of its own: where nobody is pasted in, nothing else changes."""
    never, plain, some = (make(files, paste=p) for p in (CopyPaste(0.0, min_size=16), None, PASTE))
    same = 0
    for key in KEYS:
        assert_same_item(never[key], plain[key])
        if not some.scenes.sample(key[1], rng_of(some, key)).pasted:
            assert_same_item(some[key], plain[key])
            same += 1
    assert 0 < same < len(KEYS)


@pytest.fixture
def own_files(files, tmp_path):
    shutil.copytree(files.json.parent, tmp_path / "set")
    return type(files)(tmp_path / "set" / files.json.name, tmp_path / "set" / "images")


def test_what_is_held_out_is_never_seen(files, own_files):
    """Neither images nor annotations of held-out images change anything, and they may be missing."""
    content = own_files.content()
    for annotation in content["annotations"]:
        if annotation["image_id"] in (4, 5):  # of 3.png and 4.png
            annotation["segmentation"] = [[1, 1, 109, 1, 109, 89, 1, 89]]
            annotation["bbox"], annotation["area"] = [1, 1, 108, 88], 108 * 88
    own_files.json.write_text(json.dumps(content))
    for number in (3, 4):
        (own_files.images / f"{number}.png").unlink()
    kept = [0, 1, 2, 5]
    dataset, other = make(files, kept), make(own_files, kept)
    ids = set()
    for key in [(epoch, n) for epoch in range(10) for n in range(len(kept))]:
        assert_same_item(dataset[key], other[key])
        ids |= set(dataset.scenes.sample(key[1], rng_of(dataset, key)).ids.tolist())
    assert ids == set(dataset.annotations.ids.tolist())
    assert len(make(files).annotations.ids) > len(ids)


def test_folds_share_keys_of_images_without_pasted_people_only(files):
    keys, pasted = [], []
    for kept in ([0, 1, 2, 5], [0, 1, 2, 3]):
        dataset = make(files, kept, pool=AugmentationPool(size=8), cache=AskedCache(held=True))
        pasted.append([])
        for epoch, n in [(epoch, n) for epoch in range(20) for n in range(3)]:
            dataset[epoch, n]
            image = int(dataset.annotations.image_ids[n])
            _, rng = dataset.views.choose(image, epoch, rng_of(dataset, (epoch, n)))
            pasted[-1].append(bool(dataset.scenes.sample(n, rng).pasted))
        keys.append(dataset.cache.keys)
    assert 0 < sum(pasted[0]) < len(pasted[0])
    for a, b, first, second in zip(*keys, *pasted, strict=True):
        assert (a == b) == (a.key == b.key) == (not first and not second)


def test_a_cached_item_is_the_same_but_for_its_image(files):
    pool = AugmentationPool(size=3)
    caches = None, AskedCache(True), AskedCache(False)
    plain, held, missed = (make(files, pool=pool, cache=cache) for cache in caches)
    for key in KEYS:
        want, got = plain[key], held[key]
        assert_same_item(want, missed[key])
        assert_same_item(want, got, image=False)
        assert not got.image.size and want.image.size
    assert held.cache.keys == missed.cache.keys


def test_the_same_key_is_the_same_image_and_seeds_share_them(files):
    pictures = {}
    for seed in (0, 1):
        dataset = make(files, pool=AugmentationPool(size=3), cache=AskedCache(False), seed=seed)
        for key in [(epoch, n) for epoch in range(8) for n in range(IMAGES)]:
            sample = dataset[key]
            known = pictures.setdefault(sample.cache_key, sample.image)
            np.testing.assert_array_equal(known, sample.image)
    assert len(pictures) == len({key.key for key in pictures}) == 3 * IMAGES


def keys_of(files, **options):
    dataset = make(files, pool=AugmentationPool(size=1), cache=AskedCache(True), **options)
    for n in range(len(dataset)):
        dataset[0, n]
    return dataset.cache.keys


ALWAYS = CopyPaste(probability=1.0, min_size=16, behind=0.0)


def test_a_changed_donor_makes_features_stale(own_files):
    """Its image, or its outline: the key stays, the fingerprint does not."""
    before = keys_of(own_files, paste=ALWAYS)[0]
    for number in range(1, IMAGES):  # not the image of item 0 itself
        with open(own_files.images / f"{number}.png", "ab") as stream:
            stream.write(b"another")
    after = keys_of(own_files, paste=ALWAYS)[0]
    content = own_files.content()
    for annotation in content["annotations"]:
        if annotation["image_id"] != 1 and isinstance(annotation["segmentation"], list):
            annotation["segmentation"][0][0] += 3  # a corner moves, the box stays
    own_files.json.write_text(json.dumps(content))
    outlined = keys_of(own_files, paste=ALWAYS)[0]
    assert before.key == after.key == outlined.key
    assert len({key.fingerprint for key in (before, after, outlined)}) == 3


def test_other_settings_have_other_keys(files):
    kinds = [keys_of(files, paste=paste) for paste in (None, ALWAYS, CopyPaste(1.0, min_size=16, behind=0.5))]
    assert len({key.key for keys in kinds for key in keys}) == 3 * IMAGES
