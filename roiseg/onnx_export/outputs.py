"""The outputs that an exported file can have: what they hold, and how far they are from PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import TARGET
from roiseg.common.errors import UserError

MASKS, ROI_MASKS, LABELS, MASK_SCORES = "masks", "roi_masks", "labels", "mask_scores"
DEFAULT = (MASKS, MASK_SCORES)
_BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))
_GRIDS = {"roi": "the ROI", "image": "the whole input"}


def output_texts(frame: str, dilate: int = 0, batch: bool = False) -> dict[str, str]:
    """Return what each output holds, in words.

    Args:
        frame: of the decoder.
        dilate: pixels by which the masks are dilated.
        batch: the file takes several images.
    """
    edge = f"dilated by {dilate} pixels" if dilate else "0 outside the ROI"
    shape, among = ("[B, H, W]", " of the image's masks") if batch else ("[H, W]", "")
    return {
        MASKS: f"float32 [N, H, W] at input resolution, 0.5 or more inside the mask, {edge}",
        ROI_MASKS: f"float32 [N, K, h, w] on a grid stretched over {_GRIDS[frame]}: probability of "
        "background, target (0.5 or more inside the mask) and, if K is 3, non-target",
        LABELS: f"int32 {shape} at input resolution: 1 + index of the mask that has the largest value of 0.5 "
        f"or more{among}, 0 where none has",
        MASK_SCORES: "float32 [N] predicted IoU of the masks with the true ones, 0..1",
    }


def check_outputs(names: Sequence[str], dilate: int = 0) -> None:
    """Check a choice of outputs.

    Raises:
        UserError: none, an unknown one, one that is named twice, or nothing to dilate.
    """
    known = list(output_texts("roi"))
    if not names or len({*names}) < len(names) or not {*names} <= {*known}:
        raise UserError(f"outputs is [{', '.join(names)}], it must be some of {', '.join(known)}")
    if dilate < 0 or (dilate and not {MASKS, LABELS} & {*names}):
        raise UserError(f"dilate is {dilate}: give 0 or more pixels, and {MASKS} or {LABELS} in outputs")


def dilated(masks: Tensor, pixels: int) -> Tensor:
    """Return the largest value within this many pixels, in a square, of masks [N, H, W]."""
    if not pixels:
        return masks
    side = 2 * pixels + 1
    rows = F.max_pool2d(masks[:, None], (side, 1), 1, (pixels, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, pixels))[:, 0]


def owners(masks: Tensor, above: float, belongs: Tensor | None) -> Tensor:
    """Return 1 + index of the mask of [N, H, W] with the largest value above a limit, else 0.

    Of equal values the first counts.

    Args:
        belongs: [B, N] 1 where a mask is of an image, else 0; None: all are of one.

    Returns:
        [H, W], or [B, H, W] with `belongs`.
    """
    if belongs is None:
        return F.pad(masks, (0, 0, 0, 0, 1, 0), value=above).argmax(dim=0)
    image, count = belongs.argmax(dim=0), masks.shape[0]
    blank = masks.new_zeros(belongs.shape[0], *masks.shape[1:])
    where = image[:, None, None].expand_as(masks)
    best = (blank + above).scatter_reduce(0, where, masks, "amax")
    rank = (count - torch.arange(count))[:, None, None] * ((masks == best[image]) & (masks > above))
    first = blank.long().scatter_reduce(0, where, rank, "amax")
    return torch.where(first > 0, count + 1 - first, 0)


def only_largest(masks: Tensor, belongs: Tensor | None) -> Tensor:
    """Set all but the largest value of each pixel of masks [N, H, W] to 0; of equal ones the first stays."""
    index, owner = torch.arange(1, masks.shape[0] + 1), owners(masks, 0.0, belongs)
    own = owner if belongs is None else owner[belongs.argmax(dim=0)]
    return masks * (own == index[:, None, None])


def labels_of(masks: Tensor, belongs: Tensor | None) -> Tensor:
    """Return the output `labels` of masks [N, H, W]."""
    return owners(masks, _BELOW_HALF, belongs).int()


def decided_classes(probabilities: Tensor, decided: Tensor) -> Tensor:
    """Return the probabilities [N, K, h, w] with the target's replaced by the decided values [N, h, w].

    The other classes share the rest in proportion to their probabilities.
    """
    others = [k for k in range(probabilities.shape[1]) if k != TARGET]
    rest = probabilities[:, others]
    rest = rest * ((1 - decided)[:, None] / rest.sum(dim=1, keepdim=True).clamp(min=1e-12))
    return torch.cat([rest[:, :TARGET], decided[:, None], rest[:, TARGET:]], dim=1)


def wanted_output(
    name: str, found: NDArray[Any], expected: dict[str, NDArray[np.float32]], exclusive: bool
) -> NDArray[Any]:
    """Return what an output should be, as close to what was found as the rule for near ties allows.

    Args:
        name: of the output.
        found: in the file.
        expected: `masks`, which may overlap, `roi_masks` and `mask_scores` of PyTorch.
        exclusive: the masks of the file do not overlap.
    """
    masks = expected[MASKS]
    wanted = masks[:0].sum(axis=0) if name == LABELS else expected[name]
    if found.shape != wanted.shape:
        return wanted
    if name == LABELS:
        return found + _shortfall(found, masks)
    return _exclusive(found, masks) if name == MASKS and exclusive else wanted


def _shortfall(labels: NDArray[Any], masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return [H, W]: by how much the largest value, or 0.5, exceeds that of the mask of the label."""
    values = np.concatenate([np.full((1, *labels.shape), 0.5, np.float32), masks])
    known = (labels >= 0) & (labels <= len(masks))  # a label of another image has no mask here
    index = np.where(known, labels, 0)[None].astype(int)
    shortfall = values.max(axis=0) - np.take_along_axis(values, index, 0)[0]
    return np.where(known, shortfall, np.inf).astype(np.float32)


def _exclusive(masks: NDArray[Any], overlapping: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what exclusive masks [N, H, W] should be, given the masks that may overlap.

    Which of two values is the larger may differ if they are nearly equal. Where a mask was left out, the
    result is therefore by how much it is larger than the largest of the others; NaN where two masks meet.
    """
    expected = overlapping.copy()
    for index, mask in enumerate(overlapping):
        others = np.delete(overlapping, index, axis=0).max(axis=0, initial=0)
        left_out = masks[index] == 0
        expected[index][left_out] = np.maximum(mask - others, 0)[left_out]
    expected[:, np.count_nonzero(masks, axis=0) > 1] = np.nan
    return expected
