"""Batches with features: computed or read from the cache, on the device, ahead of the decoder."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.extractor.cache.base import FeatureCache
from roiseg.extractor.onnx_extractor import OnnxExtractor

log = logging.getLogger(__name__)


class FeatureSource:
    """Fills in the features of batches, computing each image's at most once while the cache has room.

    Cached features lose a little precision. Newly computed features go through the same codec, so that a
    run does not depend on what was cached when it started.

    Args:
        images: keep images in the cache, too, for decoders that read them.
    """

    def __init__(
        self, extractor: OnnxExtractor, cache: FeatureCache | None = None, images: bool = False
    ) -> None:
        self.extractor = extractor
        self.cache = cache
        if cache is not None:
            size = extractor.preprocess.image_size if images else None
            cache.open(extractor.identity, extractor.shapes, size)

    @torch.no_grad()
    def fill(self, batch: RoiBatch) -> RoiBatch:
        """Set `features` and `inputs`, and images that are only in the cache, on the device of the batch."""
        if self.cache is None or batch.samples[0].cache_key is None:
            batch.inputs = self.extractor.preprocess(batch.images)
            batch.features = self.extractor.run(batch.inputs)
        else:
            batch.features, images = self._from_cache(self.cache, batch)
            batch.images = batch.images if images is None else images
            batch.inputs = self.extractor.preprocess(batch.images)
        return batch

    def _from_cache(
        self, cache: FeatureCache, batch: RoiBatch
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        keys = [sample.cache_key for sample in batch.samples if sample.cache_key is not None]
        hit = torch.tensor([sample.cached.hit for sample in batch.samples])
        cache.counts.update("hit" if found else "computed" for found in hit)
        rows = torch.empty((len(hit), cache.row_bytes), dtype=torch.uint8, device=batch.images.device)
        if hit.any():
            wanted = [key for key, found in zip(keys, hit, strict=True) if found]
            rows[hit.to(rows.device)] = cache.load(wanted, batch.cached_rows).to(rows.device)
        if not hit.all():
            images = batch.images
            missing = images[~hit.to(images.device)] if len(images) == len(hit) else images
            fresh = cache.pack(self.extractor.run(self.extractor.preprocess(missing)), missing)
            rows[~hit.to(rows.device)] = fresh
            cache.store([key for key, found in zip(keys, hit, strict=True) if not found], fresh)
        return cache.unpack(rows)


class SkippedImages:
    """Counts the skipped images and warns once per epoch (`data.on_error=skip`).

    Args:
        stage: "train", "val" or "test", for messages.

    Attributes:
        count: skipped images so far; one skipped in three epochs counts three times.
        reasons: one text per image, in the order of occurrence.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.count = 0
        self.reasons: list[str] = []

    def watch(self, batches: Iterable[RoiBatch], number: int) -> Iterator[RoiBatch]:
        """Pass on the batches of an epoch; warn after the last one, or when the epoch is interrupted.

        Args:
            number: how many there are; the consumer may stop after the last without exhausting the iterator.

        Raises:
            UserError: no image of the epoch could be used.
        """
        used, skipped = 0, list[str]()
        try:
            for position, batch in enumerate(batches, 1):
                used += sum(not sample.skipped for sample in batch.samples)
                skipped += batch.skipped
                if position == number:
                    self._warn_or_raise(used, skipped)
                    skipped = []
                yield batch
        finally:
            if skipped:
                self._add(used, skipped)

    def _warn_or_raise(self, used: int, skipped: list[str]) -> None:
        if skipped and not used:
            raise UserError(f"data.on_error=skip: no {self.stage} image can be used, the first: {skipped[0]}")
        if skipped:
            self._add(used, skipped)

    def _add(self, used: int, skipped: list[str]) -> None:
        self.count += len(skipped)
        self.reasons += [reason for reason in dict.fromkeys(skipped) if reason not in self.reasons]
        log.warning(
            "data.on_error=skip: %d of %d %s images of this epoch skipped; the first: %s",
            len(skipped), len(skipped) + used, self.stage, skipped[0],
        )  # fmt: skip


class FeatureLoader(DataLoader):
    """A loader whose batches carry their features on the device.

    On a GPU, a thread with its own stream runs the extractor ahead of the decoder, so that both overlap. On a
    CPU they would compete for cores, so everything runs in turn; so it does without loader processes, where
    this process loads the images.

    Args:
        prepare: moves a batch to the device and fills in its features.
        ahead: number of batches prepared in advance, each with its features in memory; 0 runs in turn.
        skipped: counts skipped images and warns of them.
        **options: those of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        prepare: Callable[[RoiBatch], RoiBatch],
        ahead: int = 0,
        skipped: SkippedImages | None = None,
        **options: Any,
    ) -> None:
        options["collate_fn"] = _CollateInWorker(options.get("collate_fn", list))
        super().__init__(dataset, worker_init_fn=ignore_disconnects, **options)
        self.prepare = prepare
        self.ahead = ahead
        self.skipped = skipped

    def __iter__(self) -> Iterator[RoiBatch]:  # type: ignore[override]
        """Start the loader (it draws its seed in the calling thread), then the thread."""
        torch.get_num_threads()  # settles the calling thread's number, see `_work`
        with _exclude_garbage_from_fork():
            batches = super().__iter__()
        in_background = self.ahead and self.num_workers
        ready = self._in_background(batches) if in_background else map(self.prepare, batches)
        return ready if self.skipped is None else self.skipped.watch(ready, len(self))

    def _in_background(self, batches: Iterator[RoiBatch]) -> Iterator[RoiBatch]:
        ready: queue.Queue[RoiBatch | BaseException | None] = queue.Queue(self.ahead)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._work, args=(batches, ready, stop, _new_stream()), name="features ahead", daemon=True
        )
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                item.keep_for_current_stream()
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    ready.get(timeout=0.05)  # it may wait for room
            thread.join()

    def _work(
        self,
        batches: Iterator[RoiBatch],
        ready: queue.Queue,
        stop: threading.Event,
        stream: contextlib.AbstractContextManager,
    ) -> None:
        torch.set_num_threads(1)  # of this thread: a second team would slow the decoder's
        try:
            with stream:
                for batch in batches:
                    prepared = self.prepare(batch)
                    if torch.cuda.is_initialized():
                        torch.cuda.current_stream().synchronize()
                    if stop.is_set():
                        return
                    ready.put(prepared)
            ready.put(None)
        except BaseException as error:  # raised again where the batches are taken
            ready.put(error)


def ignore_disconnects(worker: int) -> None:
    """Keep the thread that shares a loader process's tensors from printing that the other end has gone.

    That is a consequence of what the training process reports itself, such as another loader's death.
    """
    show = sys.excepthook  # which Python's sharing thread calls; a loader's own errors go to the trainer

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            show(kind, error, trace)

    sys.excepthook = hook


class _CollateInWorker:
    """Collates samples; in a loader process, to a batch that is already pickled."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        return batch if get_worker_info() is None else _PickledBatch(batch)


class _PickledBatch:
    """A pickled batch that unpickles as the batch itself.

    torch moves a batch to shared memory in the sending thread, where an error (no space, too many open files)
    is printed and the batch is lost, so that the receiver waits forever. Here it is moved at once, and an
    error is reported like any other error of the loader process.
    """

    def __init__(self, batch: Any) -> None:
        self._content = bytes(ForkingPickler.dumps(batch))

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkingPickler.loads, (self._content,)


def _new_stream() -> contextlib.AbstractContextManager:
    """Return a CUDA stream on the calling thread's GPU, if any; a new thread would use the first GPU."""
    return torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else contextlib.nullcontext()


@contextlib.contextmanager
def _exclude_garbage_from_fork() -> Iterator[None]:
    """Keep processes forked in the block from collecting this process's garbage.

    Destructors of objects with threads (a dropped ONNX Runtime session, for example) wait for these threads,
    which do not exist in a forked process: it would wait forever.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
