"""Fewer feature channels: a fixed linear projection of every cell to its principal components."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path

log = logging.getLogger(__name__)


class Projection(nn.Module):
    """Projects feature maps [B, C, H, W] to their first `size` principal components [B, size, H, W].

    The numbers are buffers: they are saved with the decoder and never trained. Layers with no more than
    `size` channels stay as they are.

    Args:
        channels: C of each layer.
        size: number of components.
    """

    def __init__(self, channels: Sequence[int], size: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.size = size
        for layer, count in enumerate(channels):
            if count > size:
                self.register_buffer(f"weight_{layer}", torch.zeros(size, count))
                self.register_buffer(f"bias_{layer}", torch.zeros(size))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Project every layer that still has all its channels."""
        return tuple(self._project(layer, feature) for layer, feature in enumerate(features))

    def _project(self, layer: int, feature: Tensor) -> Tensor:
        if feature.shape[1] <= self.size:
            return feature
        weight, bias = (getattr(self, f"{name}_{layer}").to(feature) for name in ("weight", "bias"))
        return F.conv2d(feature, weight[:, :, None, None], bias)

    @property
    def digest(self) -> str:
        """Return a digest of the numbers."""
        content = (f"{name} {value.cpu().numpy().tobytes()!r}" for name, value in self.state_dict().items())
        return xxhash.xxh3_128_hexdigest(" ".join(content).encode())


@dataclass(frozen=True)
class Components:
    """Principal components of the cells of one layer.

    Attributes:
        mean: [C].
        vectors: [C, C], one component per row, that of the largest variance first.
        variances: [C] of the components.
    """

    mean: Tensor
    vectors: Tensor
    variances: Tensor

    def kept(self, size: int) -> float:
        """Return the share of the variance that the first `size` components keep."""
        return float(self.variances[:size].sum() / self.variances.sum().clamp(min=1e-30))


def principal_components(batches: Iterable[Sequence[Tensor]], channels: Sequence[int]) -> list[Components]:
    """Compute the principal components of each layer in one pass, in memory that does not grow.

    Args:
        batches: features [B, C_l, H_l, W_l] of each layer; at least one batch.
        channels: C of each layer.
    """
    moments = Moments(channels)
    for features in batches:
        moments.add(features)
    return moments.components()


class Moments:
    """Sums of the values and products of the cells of each layer, in float64.

    They are taken about the mean of the first images, for precision.

    Args:
        channels: C of each layer.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self.cells = [0] * len(channels)
        self.origins = [torch.zeros(count) for count in channels]
        self.values = [torch.zeros(count, dtype=torch.float64) for count in channels]
        self.products = [torch.zeros(count, count, dtype=torch.float64) for count in channels]

    def add(self, features: Sequence[Tensor]) -> None:
        """Add features [B, C_l, H_l, W_l] of each layer."""
        for layer, feature in enumerate(features):
            if not self.cells[layer]:
                self.origins[layer] = feature.float().mean(dim=(0, 2, 3)).cpu()
            cells = feature.float().movedim(1, -1).flatten(0, 2) - self.origins[layer].to(feature.device)
            self.cells[layer] += len(cells)
            self.values[layer] += cells.sum(dim=0).double().cpu()
            self.products[layer] += (cells.T @ cells).double().cpu()

    def components(self) -> list[Components]:
        """Return the principal components of each layer.

        Pearson, On Lines and Planes of Closest Fit to Systems of Points in Space, 1901.
        """
        return [self._components(layer) for layer in range(len(self.cells))]

    def _components(self, layer: int) -> Components:
        mean = self.values[layer] / self.cells[layer]
        covariance = self.products[layer] / self.cells[layer] - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)
        vectors, variances = vectors.T.flip(0), variances.flip(0).clamp(min=0)
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        return Components(self.origins[layer] + mean, vectors * largest.sign(), variances)

    def write(self, path: Path, key: str, done: int) -> None:
        """Store the sums, to resume from after a kill; an unwritable folder is no error.

        Args:
            path: a file named .npz.
            key: what they are the sums of.
            done: number of images, given to `read`.
        """
        arrays: dict[str, Any] = {f"{name}_{layer}": value.numpy() for name, layer, value in self._arrays()}
        with contextlib.suppress(UserError), atomic_path(path, is_moments) as temporary:
            np.savez(temporary, key=np.array(key), done=np.array(done), cells=np.array(self.cells), **arrays)

    def read(self, path: Path, key: str) -> int:
        """Read stored sums and return `done`; 0 if there are none of this key and these channels.

        A file that is damaged, or of something else, is ignored with a warning.
        """
        if not path.is_file():
            return 0
        try:
            with np.load(path, allow_pickle=False) as file:  # checks the checksum of each array
                stored = {name: file[name] for name in file.files}
            arrays = {(name, layer): stored[f"{name}_{layer}"] for name, layer, _ in self._arrays()}
            fits = stored["key"] == key and len(stored["cells"]) == len(self.cells)
            fits &= all(arrays[name, layer].shape == value.shape for name, layer, value in self._arrays())
        except Exception:  # a damaged file raises almost any error
            fits = False
        if not fits:
            log.warning("%s is damaged, or of other features, and ignored", path)
            return 0
        self.cells = stored["cells"].tolist()
        for (name, layer), value in arrays.items():
            getattr(self, name)[layer] = torch.from_numpy(value)
        return int(stored["done"])

    def _arrays(self) -> Iterator[tuple[str, int, Tensor]]:
        """Yield name, layer and value of each array."""
        for name in ("origins", "values", "products"):
            for layer, value in enumerate(getattr(self, name)):
                yield name, layer, value


def is_moments(path: Path) -> bool:
    """Tell whether a file starts like those of `Moments.write`, even if truncated or damaged."""
    return _is_archive(path, b"key.npy")


def _is_archive(path: Path, first: bytes) -> bool:
    """Tell whether a file starts like a zip archive with a first entry of this name."""
    with path.open("rb") as stream:
        head = stream.read(200)
    return head.startswith(b"PK") and first in head


def projection_of(components: Sequence[Components], size: int) -> Projection:
    """Return the projection to the first `size` components of each layer."""
    projection = Projection([len(each.mean) for each in components], size)
    values = {}
    for layer, each in enumerate(components):
        if len(each.mean) > size:
            values[f"weight_{layer}"] = each.vectors[:size].float()
            values[f"bias_{layer}"] = -(each.vectors[:size] @ each.mean.double()).float()
    projection.load_state_dict(values)
    return projection


def read_projection(path: Path, channels: Sequence[int], size: int) -> Projection | None:
    """Return a stored projection; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    projection = Projection(channels, size)
    try:
        projection.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        damaged = not all(bool(value.isfinite().all()) for value in projection.buffers())
    except Exception:  # a damaged file raises almost any error
        damaged = True
    if damaged:
        log.warning("projection %s is damaged and computed again", path)
    return None if damaged else projection


def write_projection(path: Path, projection: Projection) -> None:
    """Store a projection for later runs, if the folder can be written."""
    try:
        with atomic_path(path, lambda found: _is_archive(found, b"/data.pkl")) as temporary:
            torch.save(projection.state_dict(), temporary)
    except UserError as error:
        log.warning("the projection is not stored: %s", error)
