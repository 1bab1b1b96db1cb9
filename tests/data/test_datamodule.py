import json
import shutil
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import halves, run_onnx

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, GeometricAugment
from roiseg.data.coco_reader import CocoReader
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.folds import Folds
from roiseg.data.samplers import RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess

SPEC = TargetSpec("roi", (14, 14), 3, (64, 64))
LAYERS = ["/model.6/Concat_output_0", "/model.3/Concat_output_0"]


@pytest.fixture
def extractor(onnx_file):
    return OnnxExtractor(str(onnx_file), LAYERS, Preprocess((64, 64)), threads=1)


@pytest.fixture
def make(coco_set, extractor):
    def datamodule(paths=None, **options):
        paths = paths or [str(coco_set.json), str(coco_set.images)] * 2
        fixed = {"spec": SPEC, "sampler": RoiSampler(3), "num_workers": 0, "extractor": extractor}
        return RoiDataModule(*paths, **(fixed | options))

    return datamodule


def test_folds_split_training_and_validation_images_anew(make, coco_set, tmp_path):
    whole = load_annotations(coco_set.json)
    paths = [str(path) for file in halves(coco_set, tmp_path) for path in (file, coco_set.images)]
    parts = dict(zip(whole.file_names.tolist(), Folds(2).parts(whole.image_ids).tolist(), strict=True))
    held_out = []
    for number in range(2):
        data = make(paths, folds=Folds(2, number))
        data.setup()
        train, val = (
            [sample.file_name for sample in data.samples(split, range(len(data.dataset(split))))]
            for split in ("train", "val")
        )
        assert len(train) + len(val) == len({*train, *val}) == 5
        assert {parts[name] for name in val} == {number}
        held_out += val
    assert len(set(held_out)) == len(held_out) == 5


@pytest.mark.parametrize("folds", [None, Folds(2, 1)])
def test_a_limit_leaves_the_validation_images_as_they_are(make, coco_set, tmp_path, folds):
    paths = [str(path) for file in halves(coco_set, tmp_path) for path in (file, coco_set.images)]
    names = {}
    for limit in (None, 1, 2):
        data = make(paths, folds=folds, train_limit=limit)
        names[limit] = [
            {sample.file_name for sample in data.samples(split, range(len(data.dataset(split))))}
            for split in ("train", "val")
        ]
    assert names[1][1] == names[2][1] == names[None][1]
    assert names[1][0] < names[2][0] <= names[None][0]
    assert [len(names[limit][0]) for limit in (1, 2)] == [1, 2]


def names_of(data, split):
    return [
        sample.file_name.split("/")[-1] for sample in data.samples(split, range(len(data.dataset(split))))
    ]


@pytest.mark.parametrize("folds", [None, Folds(2, 1)])
def test_extra_images_are_trained_on_but_for_those_that_are_known_by_content(make, coco_set, tmp_path, folds):
    paths = [str(path) for file in halves(coco_set, tmp_path) for path in (file, coco_set.images)]
    plain = make(paths, folds=folds, train_limit=1)
    content, folder = coco_set.content(), tmp_path / "unlabelled"
    folder.mkdir()
    for number, image in enumerate(content["images"]):  # the same files under other names, and ids from 1
        shutil.copy(coco_set.images / image["file_name"], folder / f"x{image['file_name']}")
        old, image["id"] = image["id"], number + 1
        for record in content["annotations"]:
            if record["image_id"] == old:
                record["image_id"] = -number - 1
        image["file_name"] = f"x{image['file_name']}"
    for record in content["annotations"]:
        record["image_id"] *= -1
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps(content))
    data = make(
        paths,
        folds=folds,
        train_limit=1,
        extra_annotations=str(extra),
        extra_images=str(folder),
        batch_size=9,
    )
    data.setup()
    assert names_of(data, "val") == names_of(plain, "val")
    known = {*names_of(plain, "train"), *names_of(plain, "val")}
    added = [f"x{letter}.jpg" for letter in "abcde" if f"{letter}.jpg" not in known]
    assert len(added) >= 1
    assert names_of(data, "train") == names_of(plain, "train") + added
    masks = {
        sample.file_name.split("/")[-1]: sample for sample in data.samples("train", range(len(added) + 1))
    }
    whole = make()
    for name in added:  # with their own masks
        own = next(s for s in whole.samples("val", range(5)) if s.file_name == name[1:])
        assert masks[name].original_size == own.original_size
    batch = next(iter(data.train_dataloader()))
    assert len(batch.samples) == 1 + len(added)
    assert len(np.unique(data.dataset("train").annotations.image_ids)) == len(
        data.dataset("train").annotations
    )


def test_extra_images_that_are_all_known_and_half_a_setting_are_refused(make, coco_set):
    data = make(extra_annotations=str(coco_set.json), extra_images=str(coco_set.images))
    with pytest.raises(UserError, match="all images of"):
        data.setup()
    with pytest.raises(UserError, match="set both"):
        make(extra_annotations=str(coco_set.json))
    with pytest.raises(UserError, match="set both"):
        make(extra_images=str(coco_set.images))


def test_features_and_input_tensor_are_those_of_a_direct_run_of_the_whole_detector(make, onnx_file):
    batch = next(iter(make(val_batch_size=5).val_dataloader()))
    for n, image in enumerate(batch.images.numpy()):
        feed = image[None].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_allclose(batch.inputs[n : n + 1], feed, atol=1e-6)
        for features, want in zip(batch.features, run_onnx(onnx_file, {"images": feed}, LAYERS), strict=True):
            np.testing.assert_allclose(features[n].numpy(), want[0], atol=1e-5)
    assert not any(tensor.requires_grad for tensor in (batch.inputs, *batch.features))


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


def test_images_come_in_the_extractors_letterbox(make, onnx_file):
    extractor = OnnxExtractor(
        str(onnx_file), LAYERS[0], Preprocess((64, 64), "topleft", pad_value=7), threads=1
    )
    image = make(extractor=extractor).samples("val", [0])[0].image  # 80 x 100: 51 x 64 and padding below
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
    calls = []
    source = SimpleNamespace(makes=lambda path: its_own, ensure=lambda: calls.append("made"))
    datamodule = make(source=source)
    datamodule.prepare_data()
    assert calls == ["made"] * its_own
    assert not datamodule._sets
    make().prepare_data()  # a set of one's own needs nothing made


def test_the_metric_grid_is_a_setting_which_a_map_over_the_whole_input_needs(make):
    spec = TargetSpec("image", (16, 16), 3, (64, 64))
    datamodule = make(spec=spec, metric_size=[20, 12], val_batch_size=5)
    assert datamodule.spec.metric_size == (20, 12)
    assert next(iter(datamodule.val_dataloader())).metric_targets.shape == (10, 20, 12)
    batch = next(iter(make(metric_size=None).val_dataloader()))
    assert torch.equal(batch.metric_targets, batch.targets)
    with pytest.raises(UserError, match=r"data\.metric_size must be \[h, w\]"):
        make(spec=spec, metric_size=None)


@dataclass(frozen=True)
class Shifted(CocoReader):
    """A reader with an option."""

    shift: int = 0

    def __call__(self, path, category_id):
        found = super().__call__(path, category_id)
        return replace(found, ids=found.ids + self.shift)


def test_an_index_is_of_one_reader_and_its_options(make, tmp_path):
    for reader in (Shifted(), Shifted(), Shifted(shift=10)):  # parsed, indexed, other options
        data = make(reader=reader, index_dir=str(tmp_path / "index"))
        data.setup()
        ids = next(iter(data.val_dataloader())).samples[0].truth.annotation_ids
        assert ids.tolist() == [1 + reader.shift, 2 + reader.shift]
    assert len(list((tmp_path / "index").iterdir())) == 1
