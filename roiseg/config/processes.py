"""Start, synchronize and end the processes of a distributed run."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from types import TracebackType
from typing import Any, TypeVar

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch.distributed import DistNetworkError, TCPStore

from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.config.private_api import stop_child_observers

T = TypeVar("T")

_PATIENCE = 60  # seconds that the first process waits for the others to end


class Processes:
    """The processes that train together; only this one if the trainer has one device.

    They connect before anything is written, so that the first can share the folders. Either Lightning
    starts the others, once the first has built everything (a mistake then shows once, and at once), or
    torchrun or SLURM has started all of them. Leaving the context ends those that Lightning started.

    Args:
        trainer: knows the number of processes and the rank of this one; need not be the one that trains.
        strategy: the strategy as configured; several processes need one with a `_target_`.

    Attributes:
        first: whether this is the process that writes.
        held: the locks of this process until the run ends.

    Raises:
        UserError: several processes without trainer=ddp, or in a sweep that would start them.
    """

    def __init__(self, trainer: L.Trainer, strategy: Any) -> None:
        self._strategy: Any = trainer.strategy
        if "multiprocessing" in type(self._strategy.launcher).__module__:
            raise UserError(
                f"trainer.strategy={strategy} copies a run into new processes, which a detector's session "
                "does not support: use trainer=ddp, or one device without a strategy"
            )
        self._alone = trainer.world_size == 1
        self.held = ExitStack()
        self._over = threading.Event()
        self.first = self._alone or trainer.is_global_zero
        trainer.accelerator.setup_device(trainer.strategy.root_device)  # the extractor opens on it
        if self._alone:
            return
        if isinstance(strategy, str):
            raise UserError(
                f"trainer: {trainer.world_size} processes need trainer=ddp, got strategy={strategy}: "
                "add trainer=ddp (trainer.devices and the rest stay)"
            )
        if self._starts_others and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError(
                "a sweep (-m) cannot start several processes per job: run the jobs separately, or on one "
                "device each (trainer.devices=1), in parallel with sweep=joblib or sweep=slurm"
            )
        if not self.first:
            logging.disable(logging.INFO)
            console.quiet = True

    @property
    def _starts_others(self) -> bool:
        return not self._strategy.cluster_environment.creates_processes_externally

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.held:
            for process in getattr(self._strategy.launcher, "procs", ()):
                if kind is not None:  # they may hang waiting for this one
                    process.kill()
                process.wait(_PATIENCE)
        self._over.set()

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Run a block on the first process, then on the others; returns when all have finished.

        The others find what the first created for all (a data set, an analysis).
        """
        starts_others = not self._alone and self._starts_others
        if not starts_others:
            self._meet()
        if not self.first:
            self._strategy.barrier()
        yield
        if starts_others:
            self._meet()
        if self.first:
            self._strategy.barrier()

    def _meet(self) -> None:
        if self._alone:
            return
        if self._starts_others:
            self._take_port()
        try:
            self._strategy.launcher.launch(self._strategy.setup_environment)
        except ValueError as error:  # SLURM or torchrun has started another number
            raise UserError(f"trainer.devices, trainer.num_nodes: {error}") from None
        except DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise UserError(
                f"MASTER_PORT={os.environ['MASTER_PORT']} is in use on this machine, perhaps by another run: "
                "set another port, or unset it on a single machine to use a free port"
            ) from None
        finally:
            if children := self._strategy.launcher.procs:
                _observe(children, self._over)

    def _take_port(self) -> None:
        """Open the port that the processes connect to, before the others are told its number.

        Lightning picks a free port but does not reserve it until all have started, so another program may
        take it. torch's own store on the same port of this process shares this one's server.
        """
        if "MASTER_PORT" not in os.environ:
            address = self._strategy.cluster_environment.main_address
            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
            os.environ["MASTER_PORT"] = str(self._store.port)

    def broadcast(self, value: T) -> T:
        """Return the value of the first process on all of them."""
        return value if self._alone else self._strategy.broadcast(value)

    def adopt_processes(self, trainer: L.Trainer) -> None:
        """Let the trainer that trains forward signals to the processes started here."""
        if not self._alone and self._strategy.launcher.procs:
            trainer.strategy.launcher.procs = self._strategy.launcher.procs  # type: ignore[union-attr]


def _observe(children: Sequence[Popen[bytes]], over: threading.Event) -> None:
    """Replace Lightning's thread, which kills this process within 5 s of the failure of another.

    That failure ends this process, too, as an error that has its line and its exit code, which takes a while
    on a busy machine. What hangs in spite of it, as on a GPU, has to be killed in the end. Once the run is
    `over`, no process is killed.
    """
    stop_child_observers()
    threading.Thread(target=_kill_if_hanging, args=(children, over), daemon=True).start()


def _kill_if_hanging(children: Sequence[Popen[bytes]], over: threading.Event) -> None:
    while not any(codes := [child.poll() for child in children]):
        if None not in codes or over.wait(1):
            return
    if not over.wait(_PATIENCE):
        os.kill(os.getpid(), signal.SIGKILL)
