"""Batches made ready in the background, while the decoder works on the one before."""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from roiseg.data.batch import RoiBatch
from roiseg.data.skipped_images import SkippedImages


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
