"""Fit the projection of `extractor.project` to the features of training images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import image_path
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import DamagedImage, image_digest, read_image
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.projection import (
    Components,
    Projection,
    principal_components,
    projection_of,
    read_projection,
    write_projection,
)

log = logging.getLogger(__name__)

_IMAGES = 500  # at most, evenly spaced; each has thousands of cells


def fitted_projection(extractor: OnnxExtractor, dataset: RoiDataset, folder: Path | None) -> Projection:
    """Return the projection to `extractor.project` channels for a training set.

    Args:
        extractor: the detector, without a projection.
        dataset: the training images.
        folder: where projections are stored and found again; None: nowhere.

    Raises:
        UserError: an image is damaged, or none can be used.
    """
    assert extractor.project is not None
    path = None
    channels = [shape[0] for shape in extractor.tensor_shapes]
    if folder is not None:
        content = [image_digest(path) for path in _paths(dataset, _IMAGES) if path.is_file()]
        key = repr((extractor.identity, extractor.project, content))
        path = folder / f"projection_{extractor.project}_{xxhash.xxh3_64_hexdigest(key.encode())}.pt"
        if found := read_projection(path, channels, extractor.project):
            return found
    components = feature_components(extractor, dataset, _IMAGES)
    for name, each in zip(extractor.layers, components, strict=True):
        size = min(extractor.project, len(each.mean))
        kept = 100 * each.kept(size)
        log.info("%s: %d of %d channels keep %.1f %% of the variance", name, size, len(each.mean), kept)
    projection = projection_of(components, extractor.project)
    if path is not None:
        write_projection(path, projection)
    return projection


def feature_components(extractor: OnnxExtractor, dataset: RoiDataset, images: int) -> list[Components]:
    """Compute the principal components of each layer on at most `images` images of a data set.

    Raises:
        UserError: see `fitted_projection`.
    """
    return principal_components(_features(extractor, dataset, images))


def _features(extractor: OnnxExtractor, dataset: RoiDataset, images: int) -> Iterator[list[Tensor]]:
    letterbox, used = extractor.preprocess.letterbox, 0
    for path in track(_paths(dataset, images), "principal components of the features"):
        try:
            image = read_image(path)
        except DamagedImage:
            if not dataset.skip_damaged:
                raise
            continue
        used += 1
        pixels = letterbox.apply(image, letterbox.fit(*image.shape[:2]))
        yield extractor.tensors(extractor.preprocess(torch.from_numpy(pixels)[None]))
    if not used:
        raise UserError("extractor.project: no training image can be used")


def _paths(dataset: RoiDataset, count: int) -> list[Path]:
    items = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int))
    names = dataset.annotations.file_names[dataset.images[items]]
    return [image_path(dataset.image_dir, str(name)) for name in names]
