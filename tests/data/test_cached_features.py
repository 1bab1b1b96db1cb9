"""Features through the cache: the same, whatever the cache held before; each image's computed once."""

from __future__ import annotations

import itertools
import logging
import os
import shutil

import cv2
import kornia.augmentation as K
import pytest
import torch
from helpers import CocoSet
from tiny_run import one_thread, tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer

from roiseg.common.errors import UserError
from roiseg.data import datamodule
from roiseg.data.augment import Augment, AugmentationPool, GeometricAugment, PhotometricAugment
from roiseg.extractor.cache.codec import Half, Int8
from roiseg.extractor.cache.disk import DiskCache
from roiseg.extractor.cache.memory import MemoryCache

GEOMETRIC = Augment(GeometricAugment(flip=0.5, scale=(0.8, 1.2)))
COLOUR = Augment(GeometricAugment(flip=0.5), PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1.0)]))


def caches(folder):
    return {
        "memory": lambda: MemoryCache(Half(), 1),
        "disk": lambda: DiskCache(folder, Half(), 1),
        "int8": lambda: DiskCache(folder, Int8(), 1),
    }


@pytest.fixture(params=["memory", "disk", "int8"])
def new_cache(request, tmp_path):
    return caches(tmp_path / "cache")[request.param]


@pytest.fixture
def build(coco_set, onnx_file):
    def make(**options):
        extractor = tiny_extractor(onnx_file)
        data = tiny_data(coco_set, extractor, tiny_decoder(extractor), **options)
        data.setup()
        return data

    return make


def counted(data):
    """How many images go through the extractor from now on."""
    pictures = []
    run = data.extractor.run
    data.extractor.run = lambda tensor: pictures.append(len(tensor)) or run(tensor)
    return pictures


def epoch(loader, number=0):
    loader.sampler.set_epoch(number)
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_computed_once(build, new_cache, workers):
    data = build(cache=new_cache(), num_workers=workers)
    pictures = counted(data)
    loaders = data.train_dataloader(), data.val_dataloader()
    for number in range(3):
        for loader in loaders:
            epoch(loader, number)
    # without augmentation training and validation see the same images of the same set
    assert sum(pictures) == 5
    assert data.cache.counts == {"computed": 5, "hit": 25}


@pytest.mark.parametrize("workers", [0, 1])
def test_features_are_the_same_computed_or_kept_and_near_the_extractors(build, new_cache, workers):
    data, plain = build(cache=new_cache(), num_workers=workers), build()
    loader = data.val_dataloader()
    first, second = epoch(loader), epoch(loader)
    for a, b, want in zip(first, second, epoch(plain.val_dataloader()), strict=True):
        assert len(a.images) == 2 or len(a.images) == 1
        assert len(b.images) == 0
        assert torch.equal(a.features[0], b.features[0])
        torch.testing.assert_close(b.features[0], want.features[0], atol=0.02, rtol=2e-3)
        assert torch.equal(b.rois, want.rois)
        assert torch.equal(b.targets, want.targets)


def test_a_batch_of_kept_and_new_images_has_each_in_its_place(build, tmp_path):
    some = build(cache=DiskCache(tmp_path, Half(), 1), val_batch_size=3)
    batches = epoch(some.val_dataloader())
    stored = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".json")
    for path in stored[::2]:
        path.unlink()
    again = build(cache=DiskCache(tmp_path, Half(), 1), val_batch_size=3)
    mixed = epoch(again.val_dataloader())
    assert again.cache.counts == {"computed": 3, "hit": 2}
    for a, b in zip(batches, mixed, strict=True):
        assert torch.equal(a.features[0], b.features[0])


def test_pictures_come_along_where_a_decoder_reads_them(build, new_cache):
    data = build(cache=new_cache(), needs_images=True)
    pictures = counted(data)
    epoch(data.val_dataloader())
    for batch in epoch(data.val_dataloader()):
        assert batch.inputs.shape[0] == len(batch.samples)
    assert sum(pictures) == 5


def test_new_views_every_epoch_are_not_kept(build, new_cache):
    data = build(cache=new_cache(), augment=GEOMETRIC)
    pictures = counted(data)
    loader = data.train_dataloader()
    epoch(loader, 0), epoch(loader, 1)
    assert sum(pictures) == 10
    assert not data.cache.counts


@pytest.mark.parametrize("augment", [GEOMETRIC, COLOUR])
def test_a_bank_draws_from_so_many_views_and_computes_each_once(build, new_cache, augment):
    data = build(cache=new_cache(), augment=augment, pool=AugmentationPool(3))
    pictures = counted(data)
    loader = data.train_dataloader()
    seen = {}
    for number in range(30):
        for batch in epoch(loader, number):
            for n, sample in enumerate(batch.samples):
                seen.setdefault(sample.file_name, set()).add(
                    (sample.transform, float(batch.features[0][n].sum()))
                )
    assert sum(pictures) == 15
    assert {len(views) for views in seen.values()} == {3}


def test_rois_of_a_view_are_drawn_anew_every_epoch(build, tmp_path):
    data = build(cache=MemoryCache(Half(), 1), augment=GEOMETRIC, pool=AugmentationPool(1))
    loader = data.train_dataloader()
    rois = [torch.cat([b.rois[b.rois[:, 0] == 0] for b in epoch(loader, n)][:1]) for n in range(4)]
    assert len({tuple(r.flatten().tolist()) for r in rois}) > 1


def test_a_refreshed_bank_replaces_a_part_of_its_views(build):
    data = build(cache=MemoryCache(Half(), 1), augment=GEOMETRIC, pool=AugmentationPool(4, refresh=8))
    pictures = counted(data)
    loader = data.train_dataloader()
    for number in range(80):
        epoch(loader, number)
    assert 60 < sum(pictures) <= 5 * 4 * 11  # ten and a bit generations of those that were drawn
    assert len(data.cache._rows) == 20  # in place: the cache does not grow


@pytest.mark.parametrize("refresh", [1, 2, 3, 7, 16])
def test_every_view_lives_as_long_as_said(refresh):
    class First:
        def integers(self, variants):
            return self.variant

    rng = First()
    for rng.variant in range(5):
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


def test_a_bank_needs_augmentation(build):
    with pytest.raises(UserError, match="data/augment"):
        build(pool=AugmentationPool(2), cache=MemoryCache(Half(), 1))


def in_place(path, content):
    path.write_bytes(content)


def from_beside(path, content):
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("write", [in_place, from_beside])
def test_an_image_is_known_by_its_content(build, tmp_path, coco_set, write):
    """Not by its size and time, which a copy, an archive or another image of the set may have."""
    images = tmp_path / "images"
    shutil.copytree(coco_set.images, images)
    own = CocoSet(coco_set.json, images)

    def run():
        extractor = tiny_extractor(build().extractor.onnx_path)
        cache = DiskCache(tmp_path / "cache", Half(), 1)
        data = tiny_data(own, extractor, tiny_decoder(extractor), cache=cache)
        data.setup()
        epoch(data.val_dataloader())
        return cache.counts

    assert run() == {"computed": 5}
    assert run() == {"hit": 5}
    first = sorted(images.iterdir())[0]
    before = first.stat()
    write(first, first.read_bytes())
    assert run() == {"hit": 5}
    _, encoded = cv2.imencode(".jpg", 255 - cv2.imread(str(first)), [cv2.IMWRITE_JPEG_QUALITY, 20])
    write(first, encoded.tobytes().ljust(before.st_size, b"\0"))
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (first.stat().st_size, first.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run() == {"hit": 4, "computed": 1}
    assert run() == {"hit": 5}


def test_a_bank_without_a_cache_is_refused(build):
    with pytest.raises(UserError, match="data/cache"):
        build(pool=AugmentationPool(4), augment=GEOMETRIC)


def test_what_does_not_fit_is_said_before_anything_starts_and_is_computed(build, caplog):
    row = 2 * 20 * 16 * 16
    with caplog.at_level(logging.WARNING):
        data = build(cache=MemoryCache(Half(), 2 * row / 1e9))
    assert "10 images" in caplog.text
    pictures = counted(data)
    loader = data.val_dataloader()
    epoch(loader), epoch(loader)
    assert sum(pictures) == 5 + 3
    assert data.cache.counts["rejected"] == 6


def weights(coco_set, onnx_file, folder, **options):
    """The weights after two epochs of training."""
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    decoder = tiny_decoder(extractor)
    module = tiny_module(decoder)
    with one_thread():
        tiny_trainer(folder).fit(module, datamodule=tiny_data(coco_set, extractor, decoder, **options))
    return module.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_cold_a_warm_and_a_damaged_cache_gives_the_same_weights(
    coco_set, onnx_file, tmp_path, workers
):
    def run():
        cache = DiskCache(tmp_path / "cache", Half(), 1)
        options = {"cache": cache, "num_workers": workers, "augment": GEOMETRIC, "pool": AugmentationPool(2)}
        return weights(coco_set, onnx_file, tmp_path, **options), cache

    cold, cache = run()
    assert cache.counts["computed"] > 5
    warm, cache = run()
    assert cache.counts["computed"] == 0
    for path in sorted((tmp_path / "cache").glob("*/??/*"))[:3]:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    damaged, cache = run()
    assert cache.damaged == 3
    for name, value in cold.items():
        assert torch.equal(value, warm[name]), name
        assert torch.equal(value, damaged[name]), name


@pytest.mark.parametrize("cache", [False, True])
def test_features_made_in_the_background_train_the_same_weights(
    coco_set, onnx_file, tmp_path, monkeypatch, cache
):
    def run(workers):
        kept = {"cache": MemoryCache(Half(), 1), "pool": AugmentationPool(2)} if cache else {}
        return weights(coco_set, onnx_file, tmp_path, num_workers=workers, augment=COLOUR, **kept)

    rank_zero_first = run(0)
    monkeypatch.setattr(datamodule, "_batches_ahead", lambda device: 2)
    ahead = run(2)
    for name, value in rank_zero_first.items():
        assert torch.equal(value, ahead[name]), name
