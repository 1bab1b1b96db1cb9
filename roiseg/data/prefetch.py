"""Batches made ready in the background, while the decoder works on the one before."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from roiseg.data.batch import RoiBatch


class FeatureLoader(DataLoader):
    """A loader whose batches come with their features, on the device.

    With loader processes a thread runs the extractor ahead of the decoder, at most `ahead` batches. On
    a GPU it has a stream of its own, so that both overlap. Without loader processes everything happens
    in turn: the pictures' randomness is drawn in this process then, and must not race with the model's.

    Args:
        dataset: of the items.
        prepare: puts a batch on the device and fills in its features.
        ahead: batches that wait, ready; each holds its features in memory.
        **options: of torch's `DataLoader`.
    """

    def __init__(
        self, dataset: Dataset, prepare: Callable[[RoiBatch], RoiBatch], ahead: int = 1, **options: Any
    ) -> None:
        super().__init__(dataset, **options)
        self.prepare = prepare
        self.ahead = ahead

    def __iter__(self) -> Iterator[RoiBatch]:  # type: ignore[override]
        """Start the loader (it draws its seed in the calling thread), then the thread."""
        batches = super().__iter__()
        return self._in_background(batches) if self.num_workers else map(self.prepare, batches)

    def _in_background(self, batches: Iterator[RoiBatch]) -> Iterator[RoiBatch]:
        ready: queue.Queue[RoiBatch | BaseException | None] = queue.Queue(self.ahead)
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(batches, ready, stop), daemon=True)
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

    def _work(self, batches: Iterator[RoiBatch], ready: queue.Queue, stop: threading.Event) -> None:
        try:
            with _own_stream():
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


def _own_stream() -> contextlib.AbstractContextManager:
    """A CUDA stream for this thread, where there is a GPU."""
    return torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else contextlib.nullcontext()
