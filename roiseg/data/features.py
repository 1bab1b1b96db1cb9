"""The features of a batch: from the cache where it holds them, else from the extractor."""

from __future__ import annotations

import torch

from roiseg.data.batch import RoiBatch
from roiseg.extractor.cache.base import FeatureCache
from roiseg.extractor.onnx_extractor import OnnxExtractor


class FeatureSource:
    """Fills in the features of batches, each image's computed at most once while the cache has room.

    What is kept loses a little precision. Features that were computed just now go through the same
    coding, so that a run does not depend on what the cache held when it started.

    Args:
        extractor: the frozen detector.
        cache: where features are kept; None: nowhere.
    """

    def __init__(self, extractor: OnnxExtractor, cache: FeatureCache | None = None) -> None:
        self.extractor = extractor
        self.cache = cache
        if cache is not None:
            cache.open(extractor.identity, extractor.shapes)

    @torch.no_grad()
    def fill(self, batch: RoiBatch) -> RoiBatch:
        """Set `features` and `inputs`, on the device of the batch."""
        batch.inputs = self.extractor.preprocess(batch.images)
        if self.cache is None or batch.samples[0].cache_key is None:
            batch.features = self.extractor.run(batch.inputs)
        else:
            batch.features = self._through(self.cache, batch, batch.inputs)
        return batch

    def _through(
        self, cache: FeatureCache, batch: RoiBatch, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        keys = [sample.cache_key for sample in batch.samples if sample.cache_key is not None]
        held = torch.tensor([sample.cached.hit for sample in batch.samples])
        cache.counts.update("hit" if there else "computed" for there in held)
        rows = torch.empty((len(held), cache.row_bytes), dtype=torch.uint8, device=inputs.device)
        if held.any():
            wanted = [key for key, there in zip(keys, held, strict=True) if there]
            rows[held.to(rows.device)] = cache.load(wanted, batch.cached_rows).to(rows.device)
        if not held.all():
            missing = inputs[~held.to(inputs.device)] if len(inputs) == len(held) else inputs
            fresh = cache.codec.pack(self.extractor.run(missing))
            rows[~held.to(rows.device)] = fresh
            cache.store([key for key, there in zip(keys, held, strict=True) if not there], fresh)
        return cache.codec.unpack(rows, cache.shapes)
