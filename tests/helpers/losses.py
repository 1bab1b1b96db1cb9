"""What tests of several loss terms need; a new term joins by a line in TERMS."""

import numpy as np
import torch

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance
from roiseg.losses.contrastive import Contrastive
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax

TERMS = {
    "ce": CrossEntropy(0.1), "dice": Dice([1, 2]), "focal": FocalCrossEntropy(),
    "focal-half": FocalCrossEntropy(0.5), "tversky": Tversky([1, 2]), "lovasz": LovaszSoftmax([1, 2]),
    "bce_dice": BceDice(),
    "bce_dice-squared": BceDice(0.0, 1.0, squared=True, smooth=1e-5),
    "boundary": BoundaryDistance(), "boundary_edge": BoundaryCrossEntropy(),
    "contrastive": Contrastive(negatives=[0, 2]),
}  # fmt: skip


def example(rois=3, classes=3, size=(5, 4), seed=0, ignored=0.2):
    """Random logits in float64, and labels."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (rois, classes, *size)))
    target = rng.integers(0, classes, (rois, *size))
    target[rng.uniform(size=target.shape) < ignored] = IGNORE
    return logits, torch.from_numpy(target)


def random_emphasis(target, seed=0):
    """Weights between 0 and 1, a quarter of them 0."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.clip(rng.uniform(-0.33, 1, target.shape), 0, None))


def measure(term, logits, target, class_weights=None, emphasis=None):
    """A term's value; where it reads embeddings, the logits are these."""
    weights = None if class_weights is None else torch.tensor(class_weights)
    return term(LossInput(logits, target, weights, {"embeddings": logits}, emphasis))


def sure(target, classes=3, size=50.0):
    """Logits that are certain of `target`."""
    return torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2) * size


def pixels_of(logits, target, emphasis=None):
    """Of each ROI's pixels that are not ignored: class probabilities [K, n], labels, weights and places [n, 2]."""
    for r in range(len(target)):
        kept = target[r].numpy() != IGNORE
        powers = np.exp(logits[r].detach().numpy()[:, kept])
        weights = np.ones(kept.shape) if emphasis is None else emphasis[r].numpy()
        yield powers / powers.sum(0), target[r].numpy()[kept].astype(int), weights[kept], np.argwhere(kept)


def mean(values):
    """0 for none."""
    return sum(values) / len(values) if values else 0.0
