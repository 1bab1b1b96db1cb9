from __future__ import annotations

import json
from array import array
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import run_onnx

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotation_records import ImageRecord, InstanceRecord, build_annotations
from roiseg.data.augment import Augment, GeometricAugment
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.folds import Folds
from roiseg.data.samplers import RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.geometry import rle

LAYERS = ["/model.6/Concat_output_0", "/model.3/Concat_output_0"]


@pytest.fixture
def extractor(onnx_file):
    return OnnxExtractor(str(onnx_file), LAYERS, Preprocess((64, 64)), threads=1)


@pytest.fixture
def make(coco_set, extractor):
    def datamodule(**options):
        paths = [str(coco_set.json), str(coco_set.images)] * 2
        fixed = {"spec": TargetSpec("roi", (14, 14), 3, (64, 64)), "sampler": RoiSampler(3), "num_workers": 0}
        return RoiDataModule(*paths, extractor=extractor, **(fixed | options))

    return datamodule


def counting(extractor, monkeypatch):
    """Count the images that go through the session (a session of a fixed batch takes one at a time)."""
    runs = []
    run = extractor.session.run_with_iobinding

    class Session:
        def __getattr__(self, name):
            return getattr(session, name)

        def run_with_iobinding(self, *args):
            runs.append(1)
            return run(*args)

    session = extractor.session
    monkeypatch.setattr(extractor, "session", Session())
    return runs


@pytest.mark.parametrize("split", ["train", "val"])
def test_features_are_extracted_once_an_image_however_many_rois_it_has(make, extractor, monkeypatch, split):
    datamodule = make(batch_size=2, val_batch_size=3)
    datamodule.setup()
    runs = counting(extractor, monkeypatch)
    loader = datamodule.train_dataloader() if split == "train" else datamodule.val_dataloader()
    rois = images = 0
    for batch in loader:
        images += len(batch.images)
        assert len(runs) == images  # one at a time: there are no loader processes
        assert [len(f) for f in batch.features] == [len(batch.images)] * 2
        rois += len(batch.rois)
    assert len(runs) == 5
    assert rois == (15 if split == "train" else 10)


def halves(coco_set, folder):
    """The tiny set as two files that share no image."""
    whole = json.loads(coco_set.json.read_text())
    for number in (0, 1):
        part = dict(whole, images=whole["images"][number::2])
        ids = {image["id"] for image in part["images"]}
        part["annotations"] = [a for a in whole["annotations"] if a["image_id"] in ids]
        (folder / f"{number}.json").write_text(json.dumps(part))
    return [str(folder / "0.json"), str(coco_set.images), str(folder / "1.json"), str(coco_set.images)]


def test_folds_split_training_and_validation_images_anew(coco_set, extractor, tmp_path):
    paths = halves(coco_set, tmp_path)
    spec = TargetSpec("roi", (14, 14), 3, (64, 64))
    whole = load_annotations(coco_set.json)
    held_out = []
    for number in range(2):
        data = RoiDataModule(*paths, extractor, spec, RoiSampler(3), num_workers=0, folds=Folds(2, number))
        data.setup()
        names = {split: [s.file_name for s in data.samples(split, range(len(data.dataset(split))))]
                 for split in ("train", "val")}  # fmt: skip
        assert not set(names["train"]) & set(names["val"])
        held_out += names["val"]
        parts = dict(zip(whole.file_names.tolist(), Folds(2).parts(whole.image_ids).tolist(), strict=True))
        assert {parts[name] for name in names["val"]} == {number}
    assert len(set(held_out)) == len(held_out) == 5


def test_folds_of_a_set_with_itself_are_refused(make):
    with pytest.raises(UserError, match="sets that are joined for cross-validation must share no image"):
        make(folds=Folds(2, 0)).setup()


def test_features_equal_a_direct_run_of_the_whole_detector(make, onnx_file):
    datamodule = make(val_batch_size=5)
    datamodule.setup()
    batch = datamodule.extract(next(iter(datamodule.val_dataloader())))
    for n, image in enumerate(batch.images.numpy()):
        feed = {"images": image[None].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)}
        for features, want in zip(batch.features, run_onnx(onnx_file, feed, LAYERS), strict=True):
            np.testing.assert_allclose(features[n].numpy(), want[0], atol=1e-5)


def test_features_need_no_gradient(make):
    datamodule = make()
    batch = datamodule.extract(next(iter(datamodule.train_dataloader())))
    assert not any(features.requires_grad for features in batch.features)


def test_training_is_drawn_and_shuffled_validation_is_exact_and_in_order(make):
    datamodule = make(batch_size=5, val_batch_size=5, augment=Augment(GeometricAugment(flip=1.0)), seed=2)
    train, val = next(iter(datamodule.train_dataloader())), next(iter(datamodule.val_dataloader()))
    assert all(sample.transform.scale_x < 0 for sample in train.samples)
    assert [sample.image_index for sample in val.samples] == [0, 1, 2, 3, 4]
    assert all(sample.transform.scale_x > 0 for sample in val.samples)
    assert [len(sample.truth.rles) for sample in val.samples] == [2, 1, 2, 2, 3]
    loader = datamodule.train_dataloader()
    orders = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        orders.append(tuple(sample.file_name for batch in loader for sample in batch.samples))
    assert len(set(orders)) > 1


def test_the_test_set_is_the_validation_set(make):
    datamodule = make(val_batch_size=5)
    val, test = next(iter(datamodule.val_dataloader())), next(iter(datamodule.test_dataloader()))
    assert torch.equal(val.images, test.images)
    assert torch.equal(val.rois, test.rois)


def test_pictures_come_in_the_extractors_letterbox(coco_set, onnx_file):
    extractor = OnnxExtractor(
        str(onnx_file), LAYERS[0], Preprocess((64, 64), "topleft", pad_value=7), threads=1
    )
    spec = TargetSpec("roi", (14, 14), 3, (64, 64))
    paths = [str(coco_set.json), str(coco_set.images)] * 2
    datamodule = RoiDataModule(*paths, extractor=extractor, spec=spec, sampler=RoiSampler(2), num_workers=0)
    image = datamodule.samples("val", [0])[0].image  # 80 x 100 pixels: 51 x 64 and padding below
    assert (image[51:] == 7).all()
    assert not (image[:51] == 7).all(axis=(1, 2)).any()


def test_each_file_is_read_once(make):
    datamodule = make()
    datamodule.setup()
    assert datamodule.dataset("train") is datamodule.dataset("train")
    assert datamodule.dataset("train") is not datamodule.dataset("val")
    assert [s.file_name for s in datamodule.samples("val", [3, 1])] == ["d.jpg", "b.jpg"]


@pytest.mark.parametrize("its_own", [True, False])
def test_what_makes_the_data_runs_before_anything_is_read_but_only_for_its_own_files(make, its_own):
    class Source:
        calls = 0

        def makes(self, path):
            return its_own

        def ensure(self):
            self.calls += 1

    source = Source()
    datamodule = make(source=source)
    datamodule.prepare_data()
    assert source.calls == its_own
    assert not datamodule._sets
    make().prepare_data()  # a set of one's own needs nothing made


IMAGE_FRAME = TargetSpec("image", (16, 16), 3, (64, 64))


@pytest.mark.parametrize("frame", ["roi", "image"])
def test_the_metric_grid_is_the_same_for_every_decoder(make, frame):
    datamodule = make(spec=TargetSpec(frame, (16, 16), 3, (64, 64)), metric_size=[20, 12], val_batch_size=5)
    assert datamodule.spec.metric_size == (20, 12)
    batch = next(iter(datamodule.val_dataloader()))
    assert batch.metric_targets.shape == (10, 20, 12)
    assert batch.targets.shape == (10, 16, 16)
    reference = make(spec=TargetSpec("roi", (20, 12), 3, (64, 64)), val_batch_size=5)
    assert torch.equal(batch.metric_targets, next(iter(reference.val_dataloader())).targets)
    assert len(next(iter(datamodule.train_dataloader())).metric_targets) == 0


def test_without_a_metric_grid_the_roi_frame_is_measured_on_its_own(make):
    batch = next(iter(make(metric_size=None).val_dataloader()))
    assert torch.equal(batch.metric_targets, batch.targets)


def test_a_map_over_the_whole_input_needs_a_metric_grid(make):
    with pytest.raises(UserError, match=r"data\.metric_size must be \[h, w\]"):
        make(spec=IMAGE_FRAME, metric_size=None)


def test_the_detectors_input_tensor_comes_with_the_features(make, extractor):
    datamodule = make()
    batch = next(iter(datamodule.val_dataloader()))
    assert torch.equal(batch.inputs, extractor.preprocess(batch.images))
    for given, want in zip(batch.features, extractor(batch.images), strict=True):
        assert torch.equal(given, want)
    assert not batch.inputs.requires_grad


def test_a_mistake_in_the_validation_set_shows_at_setup(coco_set, extractor, tmp_path):
    datamodule = RoiDataModule(
        str(coco_set.json), str(coco_set.images), str(tmp_path / "none.json"), str(coco_set.images),
        extractor=extractor, spec=TargetSpec("roi", (14, 14), 3, (64, 64)), sampler=RoiSampler(2),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"not found: .*none\.json"):
        datamodule.setup()


@dataclass(frozen=True)
class Rectangles:
    """A format of its own: one line `image height width x1 y1 x2 y2` per instance."""

    shift: int = 0

    def __call__(self, path, category_id):
        images, instances = {}, []
        for number, line in enumerate(path.read_text().splitlines()):
            name, *numbers = line.split()
            height, width, x1, y1, x2, y2 = map(int, numbers)
            images.setdefault(name, ImageRecord(len(images) + 1, name, height, width, None))
            index = list(images).index(name)
            box = (x1 / width, y1 / height, x2 / width, y2 / height)
            outline = array("d", [x1, y1, x2, y1, x2, y2, x1, y2])
            instances.append(InstanceRecord(number, self.shift + number, index, box, False, [outline], b""))
        return build_annotations(path, list(images.values()), instances)


def test_another_annotation_format_is_one_reader(make, coco_set, tmp_path):
    coco, path = load_annotations(coco_set.json), tmp_path / "rectangles.txt"
    name, (height, width) = str(coco.file_names[0]), coco.size(0)
    path.write_text(f"{name} {height} {width} 5 6 45 50\n{name} {height} {width} 20 10 50 40\n")
    for reader in (Rectangles(), Rectangles(), Rectangles(shift=10)):  # parsed, indexed, other options
        data = make(reader=reader, index_dir=str(tmp_path / "index"))
        data.paths = {split: (str(path), str(coco_set.images)) for split in ("train", "val")}
        data.setup()
        (batch,) = data.val_dataloader()
        assert batch.samples[0].truth.annotation_ids.tolist() == [reader.shift, reader.shift + 1]
        assert rle.decode(batch.samples[0].truth.rles[0]).sum() == 40 * 44
    assert len(list((tmp_path / "index").iterdir())) == 1
