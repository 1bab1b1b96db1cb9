"""Fit the projection of `extractor.project` to the features of training images."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import image_path
from roiseg.common.locks import locked
from roiseg.common.outputs import remove
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import DamagedImage, image_digest, read_image
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.projection import (
    Components,
    Moments,
    Projection,
    is_moments,
    projection_of,
    read_projection,
    write_projection,
)

log = logging.getLogger(__name__)

_IMAGES = 500  # at most, evenly spaced; each has thousands of cells
_EVERY = 20  # images after which the state is stored


def fitted_projection(extractor: OnnxExtractor, dataset: RoiDataset, folder: Path | None) -> Projection:
    """Return the projection to `extractor.project` channels for a training set.

    Args:
        extractor: the detector, without a projection.
        dataset: the training images.
        folder: where projections are stored and found again, and the state of one that is being fitted;
            None: nowhere.

    Raises:
        UserError: an image is damaged, or none can be used.
    """
    assert extractor.project is not None
    if folder is None:
        return _fit(extractor, dataset, None)
    path = projection_file(extractor, dataset, folder)
    channels = [shape[0] for shape in extractor.tensor_shapes]
    with ExitStack() as stack:
        # two runs that fit at once might differ in the last bit, and then share no features
        with suppress(OSError):  # the folder cannot be written
            stack.enter_context(locked(path.with_suffix(".lock"), wait=True))
        found = read_projection(path, channels, extractor.project)
        if found is None:
            state = path.with_suffix(".npz")
            found = _fit(extractor, dataset, state)
            write_projection(path, found)
            with suppress(OSError):
                remove(state, is_moments)
    return found


def projection_file(extractor: OnnxExtractor, dataset: RoiDataset, folder: Path) -> Path:
    """Return the file in which `fitted_projection` stores; its name depends on extractor, size and images."""
    content = [image_digest(path) for path in _paths(dataset, _IMAGES) if path.is_file()]
    key = xxhash.xxh3_64_hexdigest(repr((extractor.identity, extractor.project, content)).encode())
    return folder / f"projection_{extractor.project}_{key}.pt"


def _fit(extractor: OnnxExtractor, dataset: RoiDataset, state: Path | None) -> Projection:
    assert extractor.project is not None
    components = feature_components(extractor, dataset, _IMAGES, state)
    for name, each in zip(extractor.layers, components, strict=True):
        size = min(extractor.project, len(each.mean))
        kept = 100 * each.kept(size)
        log.info("%s: %d of %d channels keep %.1f %% of the variance", name, size, len(each.mean), kept)
    return projection_of(components, extractor.project)


def feature_components(
    extractor: OnnxExtractor, dataset: RoiDataset, images: int, state: Path | None = None
) -> list[Components]:
    """Compute the principal components of each layer on at most `images` images of a data set.

    Args:
        state: file for what was computed so far, from which a killed run resumes; its name is unique to
            extractor and images.

    Raises:
        UserError: see `fitted_projection`.
    """
    paths, letterbox = _paths(dataset, images), extractor.preprocess.letterbox
    moments = Moments([shape[0] for shape in extractor.tensor_shapes])
    done = 0 if state is None else moments.read(state, state.name)
    if done:
        log.info("principal components of the features: resumed after %d of %d images", done, len(paths))
    for number, path in enumerate(track(paths[done:], "principal components of the features"), done + 1):
        image = _read(path, dataset.skip_damaged)
        if image is not None:
            pixels = letterbox.apply(image, letterbox.fit(*image.shape[:2]))
            moments.add(extractor.tensors(extractor.preprocess(torch.from_numpy(pixels)[None])))
        if state is not None and number % _EVERY == 0:
            moments.write(state, state.name, number)
    if not moments.cells[0]:
        raise UserError("extractor.project: no training image can be used")
    return moments.components()


def _read(path: Path, skip_damaged: bool) -> NDArray[np.uint8] | None:
    """Read an image; None if it is damaged and to be skipped."""
    try:
        return read_image(path)
    except DamagedImage:
        if not skip_damaged:
            raise
        return None


def _paths(dataset: RoiDataset, count: int) -> list[Path]:
    items = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int))
    names = dataset.annotations.file_names[dataset.images[items]]
    return [image_path(dataset.image_dir, str(name)) for name in names]
