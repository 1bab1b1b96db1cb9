"""What is left out of an epoch where one bad image shall not end a run (`data.on_error=skip`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch

log = logging.getLogger(__name__)


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
