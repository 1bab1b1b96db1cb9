"""A fixed number of augmented views an image, so that augmentation and the feature cache live together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roiseg.common.errors import UserError


@dataclass(frozen=True)
class Bank:
    """Each training image is seen in one of `variants` augmented views, drawn at random every epoch.

    The features of a view are computed when it is first drawn and kept in the cache.

    Args:
        variants: views an image.
        refresh: epochs after which a view is replaced by a new one, a part of the views each epoch; None
            keeps them for good.
        seed: of the views. Not the run's, so that runs of other seeds find their features.
    """

    variants: int = 16
    refresh: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variants < 1 or (self.refresh is not None and self.refresh < 1):
            raise UserError(
                f"data.bank: variants and refresh must be 1 or more, got {self.variants} and {self.refresh}"
            )

    def draw(self, rng: np.random.Generator, epoch: int) -> tuple[int, int]:
        """The view an image is seen in: its number, and how often that has been replaced by then."""
        variant = int(rng.integers(self.variants))
        if self.refresh is None:
            return variant, 0
        return variant, (epoch + variant * self.refresh // self.variants) // self.refresh
