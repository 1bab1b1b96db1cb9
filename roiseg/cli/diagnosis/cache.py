"""Will the features fit the feature cache, and the cache this machine?"""

from __future__ import annotations

from collections.abc import Iterator

from roiseg.cli.diagnosis.finding import Finding
from roiseg.data.datamodule import RoiDataModule
from roiseg.extractor.cache.base import GB


def cache(data: RoiDataModule) -> Iterator[Finding]:
    """Size of all features against the budget and what is free; nothing is opened, made or removed."""
    if data.cache is None:
        todo = "to compute them once: data/cache=disk, with augmentation data/bank=variants, too"
        yield Finding("feature cache", "note", "none: features are computed every epoch", todo)
        return
    each = sum(data.cache.codec.length(shape) for shape in data.extractor.shapes)
    views = {split: data.views[split].number for split in ("train", "val")}
    wanted = each * sum(number * len(data.dataset(split)) for split, number in views.items())
    room, place = data.cache.room()
    text = (
        f"{each / 1e6:.2f} MB a picture, {wanted / GB:.2f} GB in all; the budget is "
        f"{data.cache.budget / GB:.1f} GB, {place} has room for {room / GB:.1f} GB"
    )
    if not views["train"]:
        todo = "to keep them: data/bank=variants gives each picture a fixed number of views"
        yield Finding(
            "feature cache", "note", "augmented training pictures are new every epoch, not kept", todo
        )
    if wanted > data.cache.budget:
        todo = "raise data.cache.budget_gb, or take a smaller codec or bank: the rest is computed every epoch"
        yield Finding("feature cache", "warning", text, todo)
    elif wanted > room:
        todo = "set data/cache=disk, and paths.cache_dir to a disk with room; or take a smaller codec or bank"
        yield Finding("feature cache", "warning", text, todo)
    else:
        yield Finding("feature cache", "ok", text)
