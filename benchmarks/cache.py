"""The feature cache: reading speed compared with the bare disk; size, time and IoU of each codec."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import show
from benchmarks.timing import race
from benchmarks.training import REAL, Run, make_run
from roiseg.data.batch import collate
from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.cache.codec import Codec, Half, Int8, Shape
from roiseg.extractor.cache.disk import DiskCache

SHAPES: dict[str, tuple[Shape, int]] = {  # layer, images
    "128x52x52 fp16": ((128, 52, 52), 300),
    "1024x80x80 fp16": ((1024, 80, 80), 30),
}


def fill(folder: Path, shape: Shape, images: int) -> tuple[DiskCache, list[CacheKey]]:
    """Return a disk cache filled with random features."""
    cache = DiskCache(folder, Half(), budget_gb=10)
    cache.open("benchmark", [shape])
    keys = [CacheKey.of(number, 0) for number in range(images)]
    for key in keys:
        cache.store([key], torch.randint(0, 256, (1, cache.row_bytes), dtype=torch.uint8))
    return cache, keys


def forget(paths: Sequence[Path]) -> None:
    """Write files out and drop them from the page cache, so that the next read comes from the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def bare(paths: Sequence[Path], buffer: bytearray) -> None:
    """Read files into one buffer, to measure the speed of the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.readv(handle, [buffer])
        os.close(handle)


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reading(folder: Path, rounds: int) -> list[tuple[str, ...]]:
    """Return the rows of the reading table."""
    rows: list[tuple[str, ...]] = []
    for title, (shape, images) in SHAPES.items():
        cache, keys = fill(folder / title.split()[0], shape, images)
        total = images * cache.row_bytes / 1e6
        for source, cold in (("disk", True), ("page cache", False)):
            floor, ours = against_bare_reads(cache, keys, rounds, cold)
            share = median(f / o for f, o in zip(floor, ours, strict=True))
            rates = (f"{total / median(floor):,.0f}", f"{total / median(ours):,.0f}")
            rows.append((f"{title}, {images} images, {source}", *rates, f"{share:.0%}"))
    return rows


def against_bare_reads(
    cache: DiskCache, keys: Sequence[CacheKey], rounds: int, cold: bool
) -> tuple[list[float], list[float]]:
    """Return the seconds of plain reads and of lookups of all keys, in turn; cold: from the disk itself."""
    paths = [cache.path(key) for key in keys]
    buffer = bytearray(paths[0].stat().st_size)
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        for times, work in ((floor, lambda: bare(paths, buffer)), (ours, lambda: get_all(cache, keys))):
            if cold:
                forget(paths)
            times.append(seconds(work))
    return floor, ours


def get_all(cache: DiskCache, keys: Sequence[CacheKey]) -> None:
    """Find every key's features.

    Raises:
        ValueError: some are missing.
    """
    if not all(cache.get(key).hit for key in keys):
        raise ValueError("the cache lost features")


def quality(folder: Path, epochs: int) -> list[tuple[str, ...]]:
    """Return the rows of the codec table: one decoder measured with each codec, and one trained with each."""
    plain = trained(folder, epochs, "data/cache=null")
    reference = plain.validate()
    extractor = plain.data.extractor
    features = extractor(collate(plain.data.samples("val", range(8))).images)[0]
    through = measured(reference)
    rows: list[tuple[str, ...]] = [
        ("float32", f"{4 * features[0].numel() / 1e6:.2f}", "", "", *through, through[0])
    ]
    for codec in (Half(), Int8()):
        target = f"data.cache.codec._target_={type(codec).__module__}.{type(codec).__name__}"
        own = trained(folder, epochs, "data/cache=memory", target)
        own_iou = measured(own.validate())[0]
        own.module.load_state_dict(plain.module.state_dict())
        through = measured(own.validate())
        size = f"{codec.length(extractor.shapes[0]) / 1e6:.2f}"
        rows.append((type(codec).__name__, size, *cost(codec, features), *through, own_iou))
    return rows


def trained(folder: Path, epochs: int, *overrides: str) -> Run:
    """Return a decoder trained on the real images, without augmentation."""
    run = make_run(folder, *REAL, "data/augment=null", *overrides)
    run.train(folder, max_epochs=epochs, limit_val_batches=0)
    return run


def measured(metrics: dict[str, float]) -> tuple[str, str]:
    """Return target IoU and instance IoU."""
    return f"{metrics['val/target_iou']:.4f}", f"{metrics['val/instance_iou']:.4f}"


def cost(codec: Codec, features: torch.Tensor) -> tuple[str, str]:
    """Return the milliseconds per image to encode and to decode."""
    shape: Shape = (features.shape[1], features.shape[2], features.shape[3])
    rows = codec.encode(features)
    times = race({"encode": lambda: codec.encode(features), "decode": lambda: codec.decode(rows, shape)})
    return (
        f"{1e3 * times['encode'].median / len(features):.2f}",
        f"{1e3 * times['decode'].median / len(features):.2f}",
    )


def main(rounds: int = 5, epochs: int = 8) -> None:
    """Measure and show."""
    with tempfile.TemporaryDirectory() as name:
        show(
            "Reading features from the disk cache, checksums included; medians",
            ("features", "bare read, MB/s", "cache, MB/s", "share"),
            reading(Path(name), rounds),
        )
        show(
            f"Codecs on the real images: 128x52x52, roialign trained {epochs} epochs",
            (
                "codec",
                "MB an image",
                "encode, ms",
                "decode, ms",
                "target IoU",
                "instance IoU",
                "trained on it: target IoU",
            ),
            quality(Path(name), epochs),
            "Target and instance IoU: the decoder of the first row, measured through the codec.",
        )


if __name__ == "__main__":
    main()
