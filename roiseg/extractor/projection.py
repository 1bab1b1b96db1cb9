"""Fewer feature channels: a fixed linear projection of every cell to its principal components."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def principal_components(batches: Iterable[Sequence[Tensor]]) -> list[Components]:
    """Compute the principal components of each layer in one pass, in memory that does not grow.

    Pearson, On Lines and Planes of Closest Fit to Systems of Points in Space, 1901.

    Args:
        batches: features [B, C_l, H_l, W_l] of each layer; at least one batch.
    """
    sums: list[_Moments] = []
    for features in batches:
        sums = sums or [_Moments(feature) for feature in features]
        for moments, feature in zip(sums, features, strict=True):
            moments.add(feature)
    return [moments.components() for moments in sums]


class _Moments:
    """Sums of the values and products of the cells, about the mean of the first image for precision."""

    def __init__(self, first: Tensor) -> None:
        self.origin = first.float().mean(dim=(0, 2, 3))
        self.count = 0
        self.values = torch.zeros(len(self.origin), dtype=torch.float64)
        self.products = torch.zeros(len(self.origin), len(self.origin), dtype=torch.float64)

    def add(self, feature: Tensor) -> None:
        cells = feature.float().movedim(1, -1).flatten(0, 2) - self.origin
        self.count += len(cells)
        self.values += cells.sum(dim=0).double().cpu()
        self.products += (cells.T @ cells).double().cpu()

    def components(self) -> Components:
        mean = self.values / self.count
        variances, vectors = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        vectors, variances = vectors.T.flip(0), variances.flip(0).clamp(min=0)
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        return Components(self.origin.cpu() + mean, vectors * largest.sign(), variances)


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
        with atomic_path(path) as temporary:
            torch.save(projection.state_dict(), temporary)
    except UserError as error:
        log.warning("the projection is not stored: %s", error)
