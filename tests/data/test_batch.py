"""Items joined to a batch, and where it goes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_dataset import IMAGE_FRAME, SIZE, make

from roiseg.data.batch import collate


def test_a_batch_numbers_the_rois_by_image_in_order_and_joins_what_is_measured(coco_set):
    dataset = make(coco_set, spec=IMAGE_FRAME)
    samples = [dataset[n] for n in (2, 0, 1)]
    batch = collate(samples)
    assert batch.images.shape == (3, *SIZE, 3)
    assert (batch.images.dtype, batch.metric_targets.dtype) == (torch.uint8, torch.uint8)
    assert batch.rois[:, 0].tolist() == [0, 0, 1, 1, 2]
    assert batch.rois.dtype == torch.float32
    np.testing.assert_array_equal(batch.rois[:, 1:], np.concatenate([s.rois for s in samples]))
    np.testing.assert_array_equal(batch.targets, np.concatenate([s.targets for s in samples]))
    metric_targets = np.concatenate([s.truth.metric_targets for s in samples])
    np.testing.assert_array_equal(batch.metric_targets, metric_targets)
    np.testing.assert_array_equal(batch.images[1], samples[1].image)
    assert all(len(s.truth.metric_targets) == len(s.targets) == len(s.image) == 0 for s in batch.samples)


def without_rois(sample):
    truth = replace(sample.truth, metric_targets=sample.truth.metric_targets[:0])
    return replace(sample, rois=sample.rois[:0], targets=sample.targets[:0], truth=truth)


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1, 2)])
def test_images_without_rois_are_batched(evaluation, empty):
    samples = [without_rois(evaluation[n]) if n in empty else evaluation[n] for n in range(3)]
    batch = collate(samples)
    assert batch.rois.shape == (sum(len(s.rois) for s in samples), 5)
    assert batch.targets.shape == (len(batch.rois), 14, 14)
    assert set(batch.rois[:, 0].int().tolist()) == set(range(3)) - set(empty)
    assert [len(boxes) for boxes in batch.original_boxes()] == [len(s.rois) for s in samples]


def full_batch(dataset):
    """A batch in which every field holds something."""
    batch = collate([dataset[0], dataset[1]])
    batch = replace(batch, features=(torch.ones(2, 3, 4, 4),), inputs=torch.ones(2, 3, *SIZE))
    return replace(batch, views=(batch,), parent_roi=torch.arange(len(batch.rois)))


def tensors(batch):
    for each in (batch, *batch.views):
        for value in vars(each).values():
            parts = value if isinstance(value, tuple) else (value,)
            yield from (part for part in parts if isinstance(part, torch.Tensor))


def test_every_tensor_of_a_batch_moves(coco_set):
    batch = full_batch(make(coco_set, spec=IMAGE_FRAME))
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert len(list(tensors(moved))) == len(list(tensors(batch)))
    assert moved.samples is batch.samples


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's driver pins memory")
def test_pinning_pins_everything_a_loader_fills_in(coco_set):
    batch = collate([make(coco_set, spec=IMAGE_FRAME)[0]]).pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors(batch) if len(tensor))
