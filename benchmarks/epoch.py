"""An epoch of training compared with the minimum work of any loop, on the same batches.

With cached features: the decoder's forward and backward pass. With computed features: the larger of that
and of the extractor's runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L

from benchmarks.report import show
from benchmarks.training import REAL, Run, decoder_step, extraction, make_run
from roiseg.data.batch import RoiBatch


@dataclass
class EpochTimes(L.Callback):
    """Times every epoch, and after it the passes over the same batches.

    Args:
        clock: returns seconds.

    Attributes:
        epoch, decoder, extractor: seconds of each epoch; the extractor's only if the batches have images.
    """

    clock: Callable[[], float] = time.perf_counter
    epoch: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)
    extractor: list[float] = field(default_factory=list)
    _batches: list[RoiBatch] = field(default_factory=list)
    _started: float = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._batches.clear()
        self._started = self.clock()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch."""
        self._batches.append(batch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop the clock, then time the bare passes."""
        self.epoch.append(self.clock() - self._started)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.decoder.append(self._seconds(decoder_step(pl_module)))
        if all(len(batch.images) == len(batch.samples) for batch in self._batches):
            self.extractor.append(self._seconds(extraction(data)))
        pl_module.zero_grad()

    def _seconds(self, work: Callable[[RoiBatch], None]) -> float:
        started = self.clock()
        for batch in self._batches:
            work(batch)
        return self.clock() - started


def measure(run: Run, folder: Path, epochs: int) -> EpochTimes:
    """Train for some epochs after a warm-up epoch, whose times are ignored."""
    times = EpochTimes()
    run.train(folder, [times], max_epochs=epochs + 1, limit_val_batches=0)
    for values in (times.epoch, times.decoder, times.extractor):
        del values[:1]
    return times


INT8 = "data.cache.codec._target_=roiseg.extractor.cache.codec.Int8"
POOL = ("data/pool=augmented", "data.pool.size=1")
KEPT = {
    "in memory, fp16": ("data/augment=null", "data/cache=memory"),
    "on disk, fp16": ("data/augment=null", "data/cache=disk"),
    "on disk, int8": ("data/augment=null", "data/cache=disk", INT8),
    "in memory, heavy augmentation, pool": ("data/cache=memory", *POOL),
}
SMALL = ("model.mid_channels=32", "model.min_channels=16", "model.depth=1")
COMPUTED = {
    "roialign": ("data/augment=null",),
    "roialign, light augmentation": ("data/augment=light",),
    "roialign 28 to 112": ("data/augment=null", "model.roi_size=[28,28]", "model.output_size=[112,112]"),
    "small roialign (32 channels)": ("data/augment=null", *SMALL),
}


def kept(folder: Path, epochs: int) -> list[tuple[str, ...]]:
    """Return the table rows of epochs with cached features."""
    rows = []
    for title, overrides in KEPT.items():
        times = measure(make_run(folder, *REAL, *overrides), folder, epochs)
        ratios = [e / d for e, d in zip(times.epoch, times.decoder, strict=True)]
        rows.append((title, *map(_figure, (times.decoder, times.epoch)), f"{median(ratios):.2f}x"))
    return rows


def computed(folder: Path, epochs: int) -> list[tuple[str, ...]]:
    """Return the table rows of epochs with computed features."""
    rows = []
    for title, overrides in COMPUTED.items():
        times = measure(make_run(folder, *REAL, *overrides), folder, epochs)
        triples = list(zip(times.epoch, times.decoder, times.extractor, strict=True))
        larger = median([e / max(d, x) for e, d, x in triples])
        total = median([e / (d + x) for e, d, x in triples])
        seconds = map(_figure, (times.extractor, times.decoder, times.epoch))
        rows.append((title, *seconds, f"{larger:.2f}x", f"{total:.2f}x"))
    return rows


def _figure(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f}"


def main(epochs: int = 5) -> None:
    """Measure and show."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(
            "An epoch of 11 batches of 4 images x 8 ROIs, features kept; medians",
            ("features kept", "floor: decoder, s", "epoch, s", "epoch / floor"),
            kept(folder, epochs),
        )
        show(
            "The same with features computed every time",
            ("features computed", "extractor, s", "decoder, s", "epoch, s", "/ larger", "/ sum"),
            computed(folder, epochs),
            "Extractor and decoder use all cores each: on a CPU their sum is the floor, on a GPU the larger. "
            "Loader processes (JPEG, letterbox, colours: 2 to 14 ms an image) take from the same cores.",
        )


if __name__ == "__main__":
    main()
