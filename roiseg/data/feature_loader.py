"""Batches with features: computed or read from the cache, on the device, ahead of the decoder."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.extractor.cache.base import FeatureCache
from roiseg.extractor.onnx_extractor import OnnxExtractor

log = logging.getLogger(__name__)


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


class SkippedImages:
    """Counts the images that are left out, and says so once an epoch.

    Args:
        stage: "train", "val" or "test", for messages.

    Attributes:
        count: images so far; one that is left out of three epochs counts three times.
        reasons: one text for each of them, in the order they were met.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.count = 0
        self.reasons: list[str] = []

    def watch(self, batches: Iterable[RoiBatch], number: int) -> Iterator[RoiBatch]:
        """Pass on the batches of an epoch; warn after the last, or where the epoch is broken off.

        Args:
            batches: of the epoch.
            number: how many there are. Whoever takes them may never ask for one more.

        Raises:
            UserError: none of the epoch's images could be used.
        """
        used, left_out = 0, list[str]()
        try:
            for position, batch in enumerate(batches, 1):
                used += sum(not sample.skipped for sample in batch.samples)
                left_out += batch.skipped
                if position == number:
                    self._tell(used, left_out)
                    left_out = []
                yield batch
        finally:
            if left_out:
                self._add(used, left_out)

    def _tell(self, used: int, left_out: list[str]) -> None:
        if left_out and not used:
            raise UserError(
                f"data.on_error=skip: no {self.stage} image can be used, the first: {left_out[0]}"
            )
        if left_out:
            self._add(used, left_out)

    def _add(self, used: int, left_out: list[str]) -> None:
        self.count += len(left_out)
        self.reasons += [reason for reason in dict.fromkeys(left_out) if reason not in self.reasons]
        log.warning(
            "data.on_error=skip: %d of %d %s images of this epoch left out; the first: %s",
            len(left_out), len(left_out) + used, self.stage, left_out[0],
        )  # fmt: skip


class FeatureLoader(DataLoader):
    """A loader whose batches come with their features, on the device.

    On a GPU a thread with a stream of its own runs the extractor ahead of the decoder, so that both
    overlap. On a CPU they would only take the cores from each other: there everything happens in turn,
    as it does without loader processes, where images are drawn in this process.

    Args:
        dataset: of the items.
        prepare: puts a batch on the device and fills in its features.
        ahead: batches that wait, ready, each with its features in memory; 0: in turn.
        skipped: told of every batch, and warns of what was left out.
        **options: of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        prepare: Callable[[RoiBatch], RoiBatch],
        ahead: int = 0,
        skipped: SkippedImages | None = None,
        **options: Any,
    ) -> None:
        options["collate_fn"] = _Sent(options.get("collate_fn", list))
        super().__init__(dataset, **options)
        self.prepare = prepare
        self.ahead = ahead
        self.skipped = skipped

    def __iter__(self) -> Iterator[RoiBatch]:  # type: ignore[override]
        """Start the loader (it draws its seed in the calling thread), then the thread."""
        torch.get_num_threads()  # settles the calling thread's number, see `_work`
        with _garbage_stays_here():
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


class _Sent:
    """Joins samples to a batch; in a loader process, to one that is ready to be sent.

    Args:
        collate: joins the samples.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        return batch if get_worker_info() is None else _Packed(batch)


class _Packed:
    """What arrives as the batch it was made from.

    torch moves a batch to shared memory in the thread that sends it, where an error (no room there, too many
    open files) is printed and the batch dropped: whoever waits for it waits for ever. Here it is moved at
    once, and an error travels like any other of the loader process.
    """

    def __init__(self, batch: Any) -> None:
        self._content = bytes(ForkingPickler.dumps(batch))

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkingPickler.loads, (self._content,)


def _new_stream() -> contextlib.AbstractContextManager:
    """A CUDA stream on the calling thread's GPU, if there is one; a new thread would take the first."""
    return torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else contextlib.nullcontext()


@contextlib.contextmanager
def _garbage_stays_here() -> Iterator[None]:
    """Processes forked meanwhile never collect what this one holds or has yet to collect.

    Destructors of what has threads (an ONNX Runtime session that somebody dropped, say) wait for them, in a
    forked process for ever: the threads stayed behind.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
