from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace

import cv2
import kornia.augmentation as K
import numpy as np
import pytest
import torch
from helpers import person, user_error, write_coco
from PIL import Image

from roiseg.common.errors import UserError
from roiseg.data.augment import Augment, GeometricAugment, PhotometricAugment
from roiseg.data.batch import RoiBatch, collate
from roiseg.data.coco_json import load_annotations
from roiseg.data.dataset import RoiDataset
from roiseg.data.epoch_sampler import EpochSampler
from roiseg.data.images import MAX_PIXELS, read_image
from roiseg.data.prefetch import FeatureLoader
from roiseg.data.sampling import RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.data.views import Views
from roiseg.geometry.letterbox import Letterbox

SIZE = (64, 64)
SPEC = TargetSpec("roi", (14, 14), 3, SIZE)
LETTERBOX = Letterbox(SIZE)
AUGMENT = Augment(
    GeometricAugment(flip=0.5, scale=(0.8, 1.6), aspect=0.1),
    PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.8), K.RandomGaussianNoise(std=0.05, p=0.5)]),
)


def make(files, spec=SPEC, letterbox=LETTERBOX, augment=None, **options):
    views = Views(letterbox, augment or Augment())
    return RoiDataset(load_annotations(files.json), files.images, views, spec, **options)


@pytest.fixture
def training(coco_set):
    return make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=4)


@pytest.fixture
def evaluation(coco_set):
    return make(coco_set)


@pytest.fixture
def broken_set(coco_set, tmp_path):
    """A copy of the tiny set, to be spoilt."""
    shutil.copytree(coco_set.json.parent, tmp_path / "set")
    return type(coco_set)(tmp_path / "set" / coco_set.json.name, tmp_path / "set" / "images")


def assert_same(a, b):
    assert (a.image_index, a.file_name, a.transform, a.original_size) == (
        b.image_index, b.file_name, b.transform, b.original_size,
    )  # fmt: skip
    for name in ("image", "rois", "targets"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.truths == b.truths


# --- an item depends on seed, epoch and index only ------------------------------------------------


def test_an_item_is_the_same_whatever_ran_before(training, coco_set):
    other = make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=4)
    keys = [(epoch, n) for epoch in (0, 3) for n in range(len(training))]
    first = {key: training[key] for key in keys}
    np.random.default_rng(0).shuffle(keys)
    torch.manual_seed(17)
    for key in keys:
        assert_same(first[key], other[key])


def test_an_index_alone_means_epoch_0(training):
    assert_same(training[2], training[0, 2])


def test_epochs_seeds_and_images_differ(training, coco_set):
    other = make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=5)
    for n in range(len(training)):
        assert (training[0, n].image != training[1, n].image).any()
        assert (training[0, n].image != other[0, n].image).any()
        assert (training[0, n].rois != training[1, n].rois).any()


def test_workers_give_the_same_batches_as_the_main_process(training):
    def batches(workers):
        sampler = EpochSampler(len(training), seed=1, shuffle=True)
        sampler.set_epoch(2)
        loader = FeatureLoader(
            training, lambda batch: batch, batch_size=2, sampler=sampler, collate_fn=collate,
            num_workers=workers,
        )  # fmt: skip
        return list(loader)

    alone = batches(0)
    for workers in (1, 2):
        for want, got in zip(alone, batches(workers), strict=True):
            for name in ("images", "rois", "targets"):
                assert torch.equal(getattr(want, name), getattr(got, name))
            assert [s.file_name for s in want.samples] == [s.file_name for s in got.samples]
            assert [s.transform for s in want.samples] == [s.transform for s in got.samples]


# --- training items -------------------------------------------------------------------------------


def test_a_training_item_has_k_rois_within_the_input(training):
    for epoch in range(5):
        for n in range(len(training)):
            sample = training[epoch, n]
            assert sample.image.shape == (*SIZE, 3)
            assert sample.rois.shape == (3, 4)
            assert sample.targets.shape == (3, 14, 14)
            assert (sample.rois >= 0).all()
            assert (sample.rois <= 64).all()
            assert (sample.rois[:, 2:] - sample.rois[:, :2] > 1).all()
            assert sample.truths == []


def test_every_roi_shows_its_target_in_any_view(training):
    shares = [
        (target == 1).mean()
        for epoch in range(10)
        for n in range(len(training))
        for target in training[epoch, n].targets
    ]
    assert min(shares) > 0.05
    assert 0.3 < np.mean(shares) < 0.95


def test_a_view_that_shows_nobody_is_not_used(tmp_path):
    """One small person in a corner, zoomed in fourfold: most views miss it."""
    instances = [{"file": "a.png", "segmentation": person(14, 4, 34)}]
    files = write_coco(tmp_path, {"a.png": (160, 160)}, instances)
    augment = Augment(GeometricAugment(flip=0.5, scale=(4.0, 4.0)))
    dataset = make(files, sampler=RoiSampler(2), augment=augment)
    for epoch in range(25):
        sample = dataset[epoch, 0]
        assert (sample.targets == 1).any(axis=(1, 2)).all()
        box = sample.transform.boxes(dataset.annotations.pixel_boxes(0))[0]
        seen = np.clip(box, 0, 64)
        assert (seen[2:] - seen[:2]).prod() >= 0.39 * (box[2:] - box[:2]).prod()


# --- evaluation items -----------------------------------------------------------------------------


def test_images_without_a_roi_are_no_items(evaluation):
    names = [evaluation[n].file_name for n in range(len(evaluation))]
    assert names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert evaluation.num_rois == 10


def test_evaluation_gives_every_eligible_box_exactly_and_in_order(evaluation):
    annotations = evaluation.annotations
    for n in range(len(evaluation)):
        sample = evaluation[n]
        eligible = annotations.eligible(sample.image_index, 16)
        want = Letterbox(SIZE).fit(*sample.original_size).boxes(annotations.pixel_boxes(sample.image_index))
        np.testing.assert_array_equal(sample.rois, want[eligible])
        assert_same(sample, evaluation[7, n])  # the epoch changes nothing


def test_evaluation_carries_the_true_masks_at_the_original_size(evaluation):
    annotations = evaluation.annotations
    for n in range(len(evaluation)):
        sample = evaluation[n]
        owners = annotations.eligible(sample.image_index, 16)
        outlines = annotations.outlines(sample.image_index)
        assert sample.truths == [outlines.rle(int(i)) for i in owners]
        assert all(tuple(truth["size"]) == sample.original_size for truth in sample.truths)


METRIC = TargetSpec("roi", (14, 14), 3, SIZE, metric_size=(20, 12))
IMAGE_FRAME = TargetSpec("image", (16, 16), 3, SIZE, metric_size=(20, 12))


@pytest.mark.parametrize("spec", [METRIC, IMAGE_FRAME], ids=["roi", "image"])
def test_evaluation_measures_on_the_metric_grid_over_each_roi_whatever_the_frame(coco_set, spec):
    reference = make(coco_set, spec=TargetSpec("roi", (20, 12), 3, SIZE))
    dataset = make(coco_set, spec=spec)
    for n in range(len(dataset)):
        sample, want = dataset[n], reference[n]
        assert sample.targets.shape == (len(sample.rois), *spec.size)
        np.testing.assert_array_equal(sample.measured, want.targets)
        np.testing.assert_array_equal(sample.rois, want.rois)
        assert sample.truths == want.truths


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, metric_size=(14, 14))], ids=["no metric grid", "the same grid"]
)
def test_what_is_measured_are_the_targets_themselves_where_the_grids_agree(coco_set, spec):
    for sample in (make(coco_set, spec=spec)[n] for n in range(5)):
        np.testing.assert_array_equal(sample.measured, sample.targets)


def test_a_map_over_the_input_of_the_metric_size_is_not_taken_for_the_metric_grid(coco_set):
    spec = replace(IMAGE_FRAME, size=(20, 12))
    sample = make(coco_set, spec=spec)[0]
    assert (sample.measured != sample.targets).any()
    np.testing.assert_array_equal(sample.measured, make(coco_set, spec=IMAGE_FRAME)[0].measured)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_crowding_is_known_with_two_classes_too(coco_set, num_classes):
    dataset, full = (make(coco_set, spec=replace(METRIC, num_classes=n)) for n in (num_classes, 3))
    for number in range(5):
        sample, labels = dataset[number], full[number].measured
        np.testing.assert_allclose(sample.non_target_shares, (labels == 2).mean(axis=(1, 2)))
        np.testing.assert_array_equal(sample.measured, np.where(labels == 2, 2 * (num_classes > 2), labels))
        first = dataset.annotations.first[sample.image_index]
        owners = dataset.annotations.eligible(sample.image_index, 16)
        np.testing.assert_array_equal(sample.annotation_ids, dataset.annotations.ids[first + owners])
    assert max(dataset[number].non_target_shares.max() for number in range(5)) > 0.05


@pytest.mark.parametrize("spec", [SPEC, METRIC, IMAGE_FRAME], ids=["no metric grid", "roi", "image"])
def test_nothing_is_measured_in_training(coco_set, spec):
    sample = make(coco_set, spec=spec, sampler=RoiSampler(3))[0]
    assert len(sample.measured) == 0
    assert sample.targets.shape == (3, *spec.size)
    assert collate([sample, sample]).measured.shape[0] == 0


# --- pixel sizes ----------------------------------------------------------------------------------


@pytest.fixture
def measured_set(broken_set):
    """The tiny set, its images 0.5, 1, 1.5, ... micrometres a pixel."""
    content = broken_set.content()
    for number, image in enumerate(content["images"]):
        image["pixel_size_um"] = 0.5 + 0.5 * number
    broken_set.json.write_text(json.dumps(content))
    return broken_set


def test_the_pixel_size_is_that_of_an_input_pixel(measured_set, coco_set):
    for n, (micrometres, unknown) in enumerate(zip(make(measured_set), make(coco_set), strict=True)):
        height, width = unknown.original_size
        shrunk = 64 / max(height, width)  # the letterbox; to whole pixels, hence the tolerance
        assert unknown.pixel_size == pytest.approx(1 / shrunk, rel=0.01)
        assert micrometres.pixel_size == pytest.approx((0.5 + 0.5 * n) / shrunk, rel=0.01)


def test_zooming_in_makes_pixels_smaller_and_zooming_out_larger(measured_set):
    plain = make(measured_set)[0].pixel_size
    for zoom in (0.5, 1.0, 2.0):
        augment = Augment(GeometricAugment(flip=0.5, scale=(zoom, zoom)))
        dataset = make(measured_set, sampler=RoiSampler(2), augment=augment)
        for epoch in range(4):  # mirrored or not
            assert dataset[epoch, 0].pixel_size == pytest.approx(plain / zoom, rel=0.02)


def test_a_stretched_picture_has_the_pixel_size_of_equal_area(measured_set):
    sample = make(measured_set, letterbox=Letterbox(SIZE, keep_aspect=False))[0]
    assert sample.original_size == (80, 100)
    assert sample.pixel_size == pytest.approx(0.5 * (80 / 64 * 100 / 64) ** 0.5)


def test_a_batch_has_a_pixel_size_an_image(measured_set):
    samples = [make(measured_set)[n] for n in (2, 0, 1)]
    batch = collate(samples)
    assert batch.pixel_sizes.dtype == torch.float32
    assert batch.pixel_sizes.tolist() == pytest.approx([s.pixel_size for s in samples])


# --- the number of items --------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "images", "rois"), [(0, 5, 11), (16, 5, 10), (30, 5, 7), (35, 4, 5)])
def test_the_least_roi_size_decides_what_is_an_item(coco_set, least, images, rois):
    dataset = make(coco_set, min_roi_size=least)
    assert len(dataset) == images
    assert dataset.num_rois == rois == sum(len(dataset[n].rois) for n in range(images))


def test_a_set_without_a_large_enough_person_says_so(coco_set):
    with pytest.raises(UserError, match=r"both sides of 500 pixels.*data\.min_roi_size"):
        make(coco_set, min_roi_size=500)


def test_images_may_lie_in_subfolders(tmp_path):
    instances = [{"file": "sub/a.png", "segmentation": person(30, 5, 50)}]
    dataset = make(write_coco(tmp_path, {"sub/a.png": (60, 60)}, instances))
    assert dataset[0].file_name == "sub/a.png"


# --- images that are wrong ------------------------------------------------------------------------


def test_missing_images_are_counted_and_the_first_is_named(broken_set):
    (broken_set.images / "b.jpg").unlink()
    (broken_set.images / "d.jpg").unlink()
    with pytest.raises(UserError, match=r"2 of 5 images .* the first is b\.jpg"):
        make(broken_set)


def test_an_image_that_is_no_item_may_be_missing(broken_set):
    (broken_set.images / "empty.jpg").unlink()
    assert len(make(broken_set)) == 5


def test_a_missing_folder_is_named_with_its_setting(coco_set, tmp_path):
    with pytest.raises(UserError, match=r"image folder not found: .*data\.train_images"):
        RoiDataset(
            load_annotations(coco_set.json), tmp_path / "none", Views(Letterbox(SIZE), Augment()), SPEC
        )


def test_an_image_that_vanishes_later_is_named(broken_set):
    dataset = make(broken_set)
    (broken_set.images / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"image not found: .*b\.jpg"):
        dataset[1]


def spoil_size(path):
    cv2.imwrite(str(path), np.zeros((30, 20, 3), np.uint8))


def spoil_text(path):
    path.write_text("this is no picture\n" * 50)


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_size, "20x30 pixels, its annotation record says 64x96"), (spoil_text, "b.jpg"),
     (spoil_empty, "b.jpg"), (spoil_folder, "b.jpg")],
)  # fmt: skip
def test_an_image_that_does_not_fit_is_named(broken_set, spoil, words):
    dataset = make(broken_set)
    spoil(broken_set.images / "b.jpg")
    with pytest.raises(UserError, match=words) as caught:
        dataset[1]
    assert str(broken_set.images / "b.jpg") in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_image_is_named_not_filled_with_grey(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8))
    assert read_image(path).shape == (80, 90, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_damaged_bytes_give_a_picture_or_a_named_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(min(len(data), 200))] = rng.integers(256)
        path.write_bytes(bytes(data))
        message = user_error(read_image, path)
        assert not message or str(path) in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 5_001)).save(path)
    assert MAX_PIXELS < 20_000 * 5_001
    with pytest.raises(UserError, match="20000x5001"):
        read_image(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pictures_of_any_colour_mode_become_rgb(tmp_path, mode):
    picture = Image.new("RGB", (20, 10), (200, 30, 60))
    picture.paste((255, 255, 255), (10, 0, 20, 10))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.convert(mode).save(path)
    image = read_image(path, (10, 20))
    assert image.shape == (10, 20, 3)
    assert image.dtype == np.uint8
    assert (image[:, 15] > 250).all()
    if mode in ("RGBA", "P", "CMYK"):
        np.testing.assert_allclose(image[5, 5], [200, 30, 60], atol=30)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    picture = Image.new("RGB", (30, 20))
    picture.paste((255, 255, 255), (0, 0, 10, 20))  # the left third
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg", (30, 20))
    assert (image[:8] > 200).all()  # left has become the top
    assert (image[12:] < 50).all()


def test_colours_are_red_green_blue(tmp_path):
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, 0], [10, 20, 30])


@pytest.mark.realdata
def test_real_images_decode_as_opencv_decodes_them(realdata):
    for path in sorted((realdata / "coco128_person/images/val2017").glob("*.jpg"))[:5]:
        theirs = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.abs(read_image(path).astype(int) - theirs).max() <= 2


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_numbers_the_rois_by_image_in_order(evaluation):
    samples = [evaluation[n] for n in (2, 0, 1)]
    batch = collate(samples)
    assert batch.images.shape == (3, *SIZE, 3)
    assert batch.images.dtype == torch.uint8
    assert batch.rois[:, 0].tolist() == [0, 0, 1, 1, 2]
    assert batch.rois.dtype == torch.float32
    np.testing.assert_array_equal(batch.rois[:, 1:], np.concatenate([s.rois for s in samples]))
    np.testing.assert_array_equal(batch.targets, np.concatenate([s.targets for s in samples]))
    np.testing.assert_array_equal(batch.images[1], samples[1].image)


def test_a_batch_joins_what_is_measured(coco_set):
    dataset = make(coco_set, spec=IMAGE_FRAME)
    samples = [dataset[n] for n in (2, 0, 1)]
    batch = collate(samples)
    assert batch.measured.dtype == torch.uint8
    np.testing.assert_array_equal(batch.measured, np.concatenate([s.measured for s in samples]))
    assert all(len(s.measured) == len(s.targets) == len(s.image) == 0 for s in batch.samples)


def without_rois(sample):
    return type(sample)(
        sample.image_index, sample.image_id, sample.file_name, sample.image, sample.transform, sample.original_size,
        sample.rois[:0], sample.targets[:0], measured=sample.measured[:0],
    )  # fmt: skip


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_images_without_rois_are_batched(evaluation, empty):
    samples = [without_rois(evaluation[n]) if n in empty else evaluation[n] for n in range(3)]
    batch = collate(samples)
    assert batch.rois.shape == (sum(len(s.rois) for s in samples), 5)
    assert batch.targets.shape == (len(batch.rois), 14, 14)
    assert set(batch.rois[:, 0].int().tolist()) == set(range(3)) - set(empty)
    assert [len(boxes) for boxes in batch.original_boxes()] == [len(s.rois) for s in samples]


def test_rois_are_taken_back_to_original_pixels(training, evaluation):
    batch = collate([evaluation[n] for n in range(len(evaluation))])
    for sample, boxes in zip(batch.samples, batch.original_boxes(), strict=True):
        annotations = evaluation.annotations
        eligible = annotations.eligible(sample.image_index, 16)
        np.testing.assert_allclose(boxes, annotations.pixel_boxes(sample.image_index)[eligible], atol=1e-3)
    mirrored = collate([training[epoch, 0] for epoch in range(6)])
    assert any(sample.transform.scale_x < 0 for sample in mirrored.samples)
    for boxes in mirrored.original_boxes():
        assert (boxes[:, :2] < boxes[:, 2:]).all()


def test_moving_a_batch_keeps_everything(evaluation):
    batch = collate([evaluation[0]])
    batch.features = (torch.ones(1, 2, 3, 3),)
    moved = batch.to("cpu")
    assert torch.equal(moved.rois, batch.rois)
    assert torch.equal(moved.features[0], batch.features[0])
    assert moved.samples is batch.samples


def test_windows_are_taken_back_to_original_pixels_each_by_its_own_image(training):
    batch = collate([training[epoch, n] for epoch, n in ((0, 0), (1, 1), (2, 0), (3, 2), (4, 3))])
    windows = torch.tensor([[0.0, 0, 64, 64]]).expand(len(batch.rois), 4)
    mirrored = 0
    for sample, boxes in zip(batch.samples, batch.original_boxes(windows), strict=True):
        t = sample.transform
        edges = [(0 - t.shift_x) / t.scale_x, (64 - t.shift_x) / t.scale_x]
        tops = [-t.shift_y / t.scale_y, (64 - t.shift_y) / t.scale_y]
        want = [min(edges), tops[0], max(edges), tops[1]]
        np.testing.assert_allclose(boxes, [want] * 3, atol=1e-3)
        mirrored += t.scale_x < 0
    assert mirrored


def test_windows_of_no_rois_are_none(evaluation):
    batch = collate([without_rois(evaluation[n]) for n in range(2)])
    assert [boxes.shape for boxes in batch.original_boxes(torch.zeros(0, 4))] == [(0, 4), (0, 4)]


def filled(dataset):
    """A batch in which every field holds something."""
    batch = collate([dataset[0], dataset[1]])
    return replace(batch, features=(torch.ones(2, 3, 4, 4),), inputs=torch.ones(2, 3, *SIZE))


def test_every_tensor_of_a_batch_moves(coco_set):
    batch = filled(make(coco_set, spec=IMAGE_FRAME))
    others = [field.name for field in fields(RoiBatch) if "RoiBatch" in str(field.type)]
    moved = replace(batch, **dict.fromkeys(others, batch)).to("meta")
    for field in fields(RoiBatch):
        value = getattr(moved, field.name)
        if field.name in others:
            assert value.images.device.type == value.features[0].device.type == "meta", field
        elif field.name not in ("samples", "pictured", "skipped"):
            tensors = value if isinstance(value, tuple) else (value,)
            assert {t.device.type for t in tensors} == {"meta"}, field


def test_a_batch_without_features_moves_too(evaluation):
    moved = collate([evaluation[0]]).to("meta")
    assert moved.features == ()
    assert moved.inputs is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's driver pins memory")
def test_pinning_pins_everything_a_loader_fills_in(coco_set):
    batch = collate([make(coco_set, spec=IMAGE_FRAME)[0]]).pin_memory()
    for name in ("images", "rois", "targets", "measured", "pixel_sizes", "stored"):
        assert getattr(batch, name).is_pinned(), name
