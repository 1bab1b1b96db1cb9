"""Features through the cache: the same, whatever the cache held before; each image's computed once."""

import itertools
import logging
import os
import shutil
from types import SimpleNamespace

import cv2
import kornia.augmentation as K
import pytest
import torch
from helpers import CocoSet
from tiny_dataset import assert_same_weights, count_extracted, epoch, trained_weights
from tiny_run import tiny_data, tiny_decoder, tiny_extractor

from roiseg.common.errors import UserError
from roiseg.data import datamodule
from roiseg.data.augment import Augment, AugmentationPool, GeometricAugment, PhotometricAugment
from roiseg.extractor.cache.codec import Half, Int8
from roiseg.extractor.cache.disk import DiskCache
from roiseg.extractor.cache.memory import MemoryCache

GEOMETRIC = Augment(GeometricAugment(flip=0.5, scale=(0.8, 1.2)))
COLOUR = Augment(GeometricAugment(flip=0.5), PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1.0)]))


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return MemoryCache(Half(), 1) if request.param == "memory" else DiskCache(tmp_path / "cache", Int8(), 1)


@pytest.fixture
def build(coco_set, onnx_file):
    def make(**options):
        extractor = tiny_extractor(onnx_file)
        data = tiny_data(coco_set, extractor, tiny_decoder(extractor), **options)
        data.setup()
        return data

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_computed_once(build, cache, workers):
    data = build(cache=cache, num_workers=workers)
    extracted = count_extracted(data.extractor)
    loaders = data.train_dataloader(), data.val_dataloader()
    for number in range(3):
        for loader in loaders:
            epoch(loader, number)
    # without augmentation training and validation see the same images of the same set
    assert sum(extracted) == 5
    assert data.cache.counts == {"computed": 5, "hit": 25}


@pytest.mark.parametrize("needs_images", [False, True])
def test_features_are_the_same_computed_or_kept_and_near_the_extractors(build, cache, needs_images):
    data, plain = build(cache=cache, needs_images=needs_images), build()
    loader = data.val_dataloader()
    first, second = epoch(loader), epoch(loader)
    for a, b, want in zip(first, second, epoch(plain.val_dataloader()), strict=True):
        assert len(b.images) == (len(a.images) if needs_images else 0)
        assert not needs_images or torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.features[0], b.features[0])
        torch.testing.assert_close(b.features[0], want.features[0], atol=0.02, rtol=2e-3)
        assert torch.equal(b.rois, want.rois)
        assert torch.equal(b.targets, want.targets)
    assert data.cache.counts == {"computed": 5, "hit": 5}


def test_images_of_views_are_kept_for_decoders_that_read_them(build, cache, monkeypatch):
    data = build(cache=cache, augment=COLOUR, pool=AugmentationPool(1), needs_images=True)
    first = epoch(data.train_dataloader())
    monkeypatch.setattr("roiseg.data.dataset.read_image", lambda *_: pytest.fail("it is in the cache"))
    for a, b in zip(first, epoch(data.train_dataloader()), strict=True):
        assert len(b.images) == len(b.samples)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.features[0], b.features[0])
    without = build(cache=MemoryCache(cache.codec, 1)).cache.row_bytes
    assert data.cache.row_bytes == without + first[0].images[0].numel()


def test_new_views_every_epoch_are_not_kept(build, cache):
    data = build(cache=cache, augment=GEOMETRIC)
    extracted = count_extracted(data.extractor)
    loader = data.train_dataloader()
    epoch(loader, 0), epoch(loader, 1)
    assert sum(extracted) == 10
    assert not data.cache.counts


@pytest.mark.parametrize("augment", [GEOMETRIC, COLOUR])
def test_a_pool_has_so_many_views_each_computed_once_and_rois_drawn_anew(build, cache, augment):
    data = build(cache=cache, augment=augment, pool=AugmentationPool(3))
    extracted = count_extracted(data.extractor)
    loader = data.train_dataloader()
    views, rois = {}, set()
    for number in range(30):
        for batch in epoch(loader, number):
            rois.add(tuple(batch.rois.flatten().tolist()))
            for sample, features in zip(batch.samples, batch.features[0], strict=True):
                views.setdefault(sample.file_name, set()).add((sample.transform, float(features.sum())))
    assert sum(extracted) == 15
    assert {len(own) for own in views.values()} == {3}
    assert len(rois) > 15


def test_a_refreshed_pool_replaces_a_part_of_its_views(build):
    data = build(cache=MemoryCache(Half(), 1), augment=GEOMETRIC, pool=AugmentationPool(4, refresh=8))
    extracted = count_extracted(data.extractor)
    loader = data.train_dataloader()
    for number in range(40):
        epoch(loader, number)
    assert 60 < sum(extracted) <= 5 * 4 * 6  # five and a bit generations of those that were drawn
    assert len(data.cache._rows) == 20  # in place: the cache does not grow


@pytest.mark.parametrize("refresh", [1, 2, 7, 16])
def test_every_view_lives_as_long_as_said(refresh):
    for variant in range(5):
        rng = SimpleNamespace(integers=lambda size, variant=variant: variant)
        generations = [AugmentationPool(5, refresh).sample(rng, epoch)[1] for epoch in range(60)]
        changes = [n for n in range(1, 60) if generations[n] != generations[n - 1]]
        assert all(b - a == refresh for a, b in itertools.pairwise(changes))


def test_runs_of_any_seed_share_a_pool_another_pool_seed_has_other_views(build):
    views = []
    for seed, pool_seed in ((1, 0), (2, 0), (1, 5)):
        cache, pool = MemoryCache(Half(), 1), AugmentationPool(1, seed=pool_seed)
        data = build(cache=cache, augment=GEOMETRIC, pool=pool, seed=seed)
        views.append({s.file_name: s.transform for b in epoch(data.train_dataloader()) for s in b.samples})
    assert views[0] == views[1]
    assert views[0] != views[2]


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"cache": MemoryCache(Half(), 1)}, "data/augment"), ({"augment": GEOMETRIC}, "data/cache")],
)
def test_a_pool_needs_augmentation_and_a_cache(build, options, missing):
    with pytest.raises(UserError, match=missing):
        build(pool=AugmentationPool(2), **options)


def test_an_image_is_known_by_its_content(onnx_file, coco_set, tmp_path):
    """Not by its size and time, which a copy, an archive or another image of the set may have."""
    own = CocoSet(coco_set.json, shutil.copytree(coco_set.images, tmp_path / "images"))

    def run():
        extractor, cache = tiny_extractor(onnx_file), DiskCache(tmp_path / "cache", Half(), 1)
        data = tiny_data(own, extractor, tiny_decoder(extractor), cache=cache)
        data.setup()
        epoch(data.val_dataloader())
        return cache.counts

    assert run() == {"computed": 5}
    first = sorted(own.images.iterdir())[0]
    before = first.stat()
    first.write_bytes(first.read_bytes())
    assert run() == {"hit": 5}
    _, encoded = cv2.imencode(".jpg", 255 - cv2.imread(str(first)), [cv2.IMWRITE_JPEG_QUALITY, 20])
    first.write_bytes(encoded.tobytes().ljust(before.st_size, b"\0"))
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (first.stat().st_size, first.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run() == {"hit": 4, "computed": 1}
    assert run() == {"hit": 5}


def test_what_does_not_fit_is_said_before_anything_starts_and_is_computed(build, caplog):
    row = 2 * 20 * 16 * 16
    with caplog.at_level(logging.WARNING):
        data = build(cache=MemoryCache(Half(), 2 * row / 1e9))
    assert "10 images" in caplog.text
    extracted = count_extracted(data.extractor)
    loader = data.val_dataloader()
    epoch(loader), epoch(loader)
    assert sum(extracted) == 5 + 3
    assert data.cache.counts["rejected"] == 6


@pytest.mark.parametrize("cached", [False, True])
def test_loader_processes_and_background_features_train_the_same(build, tmp_path, monkeypatch, cached):
    def run(workers):
        kept = {"cache": MemoryCache(Half(), 1), "pool": AugmentationPool(2)} if cached else {}
        return trained_weights(build(num_workers=workers, augment=COLOUR, **kept), tmp_path)

    alone = run(0)
    assert_same_weights(alone, run(1))
    monkeypatch.setattr(datamodule, "_batches_ahead", lambda device: 2)
    assert_same_weights(alone, run(2))
