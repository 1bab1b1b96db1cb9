"""Images that cannot be used: the run ends in a line, or they are left out and counted."""

import itertools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CocoSet
from tiny_dataset import epoch
from tiny_run import tiny_data, tiny_decoder, tiny_extractor, tiny_module

from roiseg.common.errors import UserError
from roiseg.data.augment import Augment, AugmentationPool, GeometricAugment
from roiseg.data.batch import collate
from roiseg.data.copy_paste import CopyPaste
from roiseg.data.images import DamagedImage
from roiseg.data.tta import TTA
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.memory import MemoryCache

ITEMS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


@pytest.fixture
def build(coco_set, onnx_file, tmp_path):
    """A data module of the tiny set with some of its images spoilt."""
    folders = (tmp_path / f"set{n}" for n in itertools.count())

    def make(*spoilt, vanished=(), **options):
        folder = next(folders)
        shutil.copytree(coco_set.json.parent, folder)
        files = CocoSet(folder / coco_set.json.name, folder / "images")
        for name in spoilt:
            (files.images / name).write_bytes(b"no image")
        for name in vanished:
            (files.images / name).unlink()
        extractor = tiny_extractor(onnx_file)
        return tiny_data(files, extractor, tiny_decoder(extractor), **{"on_error": "skip"} | options)

    return make


def images(batches):
    return [sample.file_name for batch in batches for sample in batch.samples]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_goes_on_without_the_damaged_image(build, workers):
    whole = epoch(build(num_workers=workers).val_dataloader())
    data = build("b.jpg", vanished=["c.jpg"], num_workers=workers)
    batches = epoch(data.val_dataloader())
    assert [images([batch]) for batch in batches] == [["a.jpg"], ["d.jpg"], ["e.jpg"]]
    assert [len(batch.skipped) for batch in batches] == [1, 1, 0]
    assert "b.jpg is damaged" in batches[0].skipped[0]
    assert "not found" in batches[1].skipped[0]
    for batch, before, place in zip(batches, whole, (0, 1, 0), strict=True):
        chosen = before.rois[:, 0] == place
        assert torch.equal(batch.rois[:, 1:], before.rois[chosen, 1:])
        assert torch.equal(batch.targets, before.targets[chosen])
        assert torch.equal(batch.images, before.images[place : place + 1])
        torch.testing.assert_close(batch.features[0], before.features[0][place : place + 1])


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_a_batch_of_which_nothing_is_left_has_a_blank_image_and_no_rois(build, stage):
    data = build("a.jpg", "b.jpg", tta=TTA(True, (2.0,)))
    batch = collate([data.dataset("train" if stage == "train" else "val")[n] for n in (0, 1)])
    assert batch.images.shape == (1, 64, 64, 3)
    assert batch.rois.shape == (0, 5)
    assert batch.targets.shape == (0, 14, 14)
    assert len(batch.skipped) == 2
    module = tiny_module(tiny_decoder(data.extractor))
    loss = module._losses(module(data.extract(batch)), batch)["loss"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    assert sum(len(batch.skipped) for batch in getattr(data, f"{stage}_dataloader")()) == 2


def test_someone_pasted_out_of_a_damaged_image_takes_the_item_with_them(build):
    paste = CopyPaste(probability=1.0, people=3, min_size=16)
    data = build("b.jpg", augment=Augment(paste=paste))
    samples = [data.dataset("train")[n, item] for n in range(12) for item in range(5)]
    skipped = [sample for sample in samples if sample.skipped]
    assert {sample.file_name for sample in skipped} > {"b.jpg"}
    assert all("b.jpg" in sample.skipped for sample in skipped)
    assert len(skipped) < len(samples)


@pytest.mark.parametrize("pool", [None, AugmentationPool(2)])
def test_nothing_is_kept_of_a_blank_picture(build, pool):
    augment = None if pool is None else Augment(GeometricAugment(flip=0.5))
    data = build("b.jpg", "e.jpg", cache=MemoryCache(Half(), 1), pool=pool, augment=augment)
    data.setup()
    first, second = (epoch(data.val_dataloader()) for _ in range(2))
    assert data.cache.counts == {"computed": 3, "hit": 3}
    for a, b in zip(first, second, strict=True):
        assert images([a]) == images([b])
        assert torch.equal(a.features[0], b.features[0])
    assert sum(len(batch.skipped) for batch in epoch(data.train_dataloader())) == 2


def test_each_epoch_warns_once_with_the_count_and_the_first(build, caplog):
    data = build("b.jpg", "d.jpg")
    loader = data.train_dataloader()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            epoch(loader, number)
    lines = [record.message for record in caplog.records if "on_error" in record.message]
    assert len(lines) == 3
    assert all("2 of 5 train images of this epoch skipped; the first: image " in line for line in lines)
    assert data.skipped["train"].count == 6
    assert len(data.skipped["train"].reasons) == 2
    assert data.skipped["val"].count == 0


def test_an_epoch_that_is_broken_off_is_counted_too(build, caplog):
    data = build("a.jpg")
    batches = iter(data.val_dataloader())
    next(batches)
    assert data.skipped["val"].count == 0
    batches.close()
    assert data.skipped["val"].count == 1
    assert "1 of 2 val images" in caplog.text
    list(itertools.islice(data.val_dataloader(), 3))  # the last batch, and no attempt at another
    assert data.skipped["val"].count == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_which_nothing_is_left_ends_in_a_line(build, workers):
    data = build(*ITEMS, num_workers=workers)
    with pytest.raises(UserError, match=r"data\.on_error=skip: no train image can be used.*\.jpg is damaged"):
        epoch(data.train_dataloader())
    with pytest.raises(UserError, match="5 of 5 images"):
        build(vanished=ITEMS).setup()
    with pytest.raises(UserError, match=r"image .*b\.jpg is damaged"):
        epoch(build("b.jpg", on_error="raise", num_workers=workers).val_dataloader())


def test_samples_to_draw_are_those_that_can_be_used(build):
    data = build("a.jpg", "c.jpg")
    assert [sample.file_name for sample in data.samples("val", [0, 1])] == ["b.jpg", "d.jpg"]
    assert [sample.file_name for sample in data.samples("val", [4])] == ["e.jpg"]


def test_an_image_of_another_size_than_its_record_is_skipped_or_ends_the_run(build):
    skipping, raising = build(), build(on_error="raise")
    for data in (skipping, raising):
        path = Path(data.paths["train"][0])
        content = json.loads(path.read_text())
        content["images"][1]["width"] += 1
        path.write_text(json.dumps(content))
    sample = skipping.dataset("train")[1]
    assert "65x96" in sample.skipped
    assert (sample.image == 114).all()
    assert np.shape(sample.rois) == (0, 4)
    with pytest.raises(DamagedImage):
        raising.dataset("train")[1]
