"""Items of the tiny set."""

from __future__ import annotations

import kornia.augmentation as K

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, GeometricAugment, PhotometricAugment, Views
from roiseg.data.dataset import RoiDataset
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox

SIZE = (64, 64)
SPEC = TargetSpec("roi", (14, 14), 3, SIZE)
LETTERBOX = Letterbox(SIZE)
AUGMENT = Augment(
    GeometricAugment(flip=0.5, scale=(0.8, 1.6), aspect=0.1),
    PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.8), K.RandomGaussianNoise(std=0.05, p=0.5)]),
)

# measured on a grid of its own
METRIC = TargetSpec("roi", (14, 14), 3, SIZE, metric_size=(20, 12))
IMAGE_FRAME = TargetSpec("image", (16, 16), 3, SIZE, metric_size=(20, 12))


def make(files, spec=SPEC, letterbox=LETTERBOX, augment=None, **options):
    """The items of `helpers.tiny_coco`, or of a set like it."""
    views = Views(letterbox, augment or Augment())
    return RoiDataset(load_annotations(files.json), files.images, views, spec, **options)
