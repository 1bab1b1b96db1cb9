import gc
import os
import sys
import threading

import pytest
import torch
from child_processes import wait_until

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.data.feature_loader import FeatureLoader, ignore_disconnects


def batch(numbers):
    return RoiBatch(torch.zeros(0), torch.zeros(0, 5), torch.tensor(numbers[:1]), [])


def loader(prepare, length=6, workers=1, ahead=1):
    return FeatureLoader(range(length), prepare, ahead, collate_fn=batch, num_workers=workers)


def value(batch):
    return int(batch.targets[0])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_every_batch_comes_prepared_once_and_in_order(workers, ahead):
    prepared = []
    batches = loader(lambda b: prepared.append(value(b)) or b, workers=workers, ahead=ahead)
    for _ in range(2):
        prepared.clear()
        assert [value(b) for b in batches] == list(range(6))
        assert prepared == list(range(6))
    assert len(batches) == 6


def test_in_turn_nothing_is_prepared_ahead():
    by = []
    next(iter(loader(lambda b: by.append(threading.current_thread()) or b, ahead=0)))
    assert by == [threading.current_thread()]  # the caller's, which is here again


def test_the_next_batches_are_prepared_while_one_is_used_and_no_more_than_said():
    prepared = []
    batches = iter(loader(lambda b: prepared.append(value(b)) or b, ahead=2))
    for taken, _ in enumerate(batches, start=1):
        wait_until(lambda taken=taken: len(prepared) >= min(taken + 2, 6))
        assert len(prepared) <= taken + 3  # those taken, two ready, one that waits to get in


def test_the_callers_threads_and_randomness_are_left_alone():
    """The loader draws its seed when it is started, not at some later moment."""

    def draws():
        torch.manual_seed(3)
        batches = iter(loader(lambda b: b))
        first = torch.rand(1)
        list(batches)
        return first, torch.rand(1)

    threads = torch.get_num_threads()
    assert draws() == draws()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_while_preparing_is_raised_where_batches_are_taken(ahead):
    def prepare(b):
        if value(b) == 2:
            raise UserError("the image is damaged")
        return b

    taken = []
    with pytest.raises(UserError, match="the image is damaged"):
        taken.extend(value(b) for b in loader(prepare, ahead=ahead))


def test_leaving_early_ends_the_thread():
    for _ in range(3):
        batches = iter(loader(lambda b: b, length=50))
        next(batches)
        batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "features ahead"]


def collect_and_collate(numbers):
    gc.collect()
    return batch(numbers)


def test_loader_processes_leave_the_garbage_of_this_one_alone(tmp_path):
    """A session of ONNX Runtime with threads would wait for them there, for ever."""

    class Garbage:
        def __init__(self):
            self.myself = self

        def __del__(self):
            (tmp_path / str(os.getpid())).touch()

    gc.collect()
    gc.disable()
    try:
        Garbage()
        batches = FeatureLoader(range(1), lambda b: b, collate_fn=collect_and_collate, num_workers=1)
        assert [value(b) for b in batches] == [0]
        assert not list(tmp_path.iterdir())
    finally:
        gc.enable()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_loader_processes_say_nothing_of_a_training_process_that_has_gone(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    ignore_disconnects(0)
    for error in (ConnectionResetError(), BrokenPipeError(), EOFError(), OSError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert shown == [OSError, ValueError]
    loader = FeatureLoader(list(range(4)), lambda batch: batch, num_workers=1)
    assert loader.worker_init_fn is ignore_disconnects and len(list(loader)) == 4
