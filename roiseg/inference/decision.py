"""Decide which pixels belong to each mask, from the class probabilities of all ROIs of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from roiseg.data.batch import RoiPrediction
from roiseg.geometry.roi_align import centers_inside, crop_rois, crop_weights, paste_weights
from roiseg.metrics.mask_score import LEAST_SCORE, Calibration

_LEAST = 1e-6  # probability of a ROI's own class
_LEAST_VOTE = 1e-3  # the same of the other ROIs, so that none of them outvotes all the rest
_AT_ONCE = 64  # ROIs whose votes are added up together, which bounds the memory

Score = Callable[["Decision"], float]


@dataclass(frozen=True)
class ImageRois:
    """What is predicted for the R ROIs of one image.

    Attributes:
        probabilities: [R, K, h, w] of the classes.
        extents: [R, 4] boxes in input pixels that they are stretched over.
        boxes: [R, 4] the ROIs in input pixels.
        image_size: (H, W) of the input.
        votes: from `count_votes`, if they are known.
        belongs: [B, R] 1 where a ROI is of an image, else 0, in an exported file that takes several images;
            None: all are of one.
    """

    probabilities: Tensor
    extents: Tensor
    boxes: Tensor
    image_size: tuple[int, int]
    votes: Tensor | None = None
    belongs: Tensor | None = None


@dataclass(frozen=True)
class Decision(ABC):
    """How masks follow from class probabilities.

    Attributes:
        exclusive: each pixel of an image belongs to one mask at most, to that of the largest value.
        score_slope, score_offset: calibration of the mask scores, see `mask_scores`. None: to be fitted, 1
            and 0 until then.
    """

    exclusive: bool = False
    score_slope: Annotated[float, Field(ge=0, le=20)] | None = field(default=None, kw_only=True)
    score_offset: Annotated[float, Field(ge=-20, le=20)] | None = field(default=None, kw_only=True)

    @property
    def unfitted(self) -> list[str]:
        """Return the names of the numbers that are None, and so are to be fitted; without the calibration."""
        names = (entry.name for entry in fields(self) if not entry.name.startswith("score_"))
        return [name for name in names if getattr(self, name) is None]

    @property
    def calibration(self) -> Calibration:
        """Return the calibration of the mask scores."""
        slope, offset = self.score_slope, self.score_offset
        return Calibration(1.0 if slope is None else slope, offset or 0.0)

    def calibrate(self, calibration: Calibration) -> Self:
        """Return the decision with another calibration of the mask scores."""
        return replace(self, score_slope=calibration.slope, score_offset=calibration.offset)

    def node(self) -> dict[str, Any]:
        """Return the decision as a `_target_` dict of plain values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {"_target_": f"{type(self).__module__}.{type(self).__name__}", **values}

    def __call__(self, prediction: RoiPrediction, rois: Tensor, image_size: tuple[int, int]) -> RoiPrediction:
        """Return the prediction with its masks decided and scored.

        Args:
            prediction: of all ROIs of its images; returned unchanged if its masks are decided, as those of an
                exported file are.
            rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.
            image_size: (H, W) of the input.
        """
        if prediction.decided is not None:
            return prediction
        with torch.autocast(prediction.target.device.type, enabled=False):
            images = list(_images(prediction, rois, image_size))
            decided = [self.of_image(one) for one in images]
            scores = [mask_scores(*pair, self.calibration) for pair in zip(images, decided, strict=True)]
        if not images:
            return replace(prediction, decided=prediction.target, scores=prediction.target.new_zeros(0))
        masks = torch.cat(decided)
        return replace(prediction, decided=masks, scores=torch.cat(scores), exclusive=self.exclusive)

    @abstractmethod
    def of_image(self, rois: ImageRois) -> Tensor:
        """Return the values [R, h, w] of the ROIs, 0.5 or more inside the masks; exportable to ONNX."""

    @abstractmethod
    def fitted(self, score: Score) -> Self:
        """Return the decision with the numbers, of those that are None, that have the largest score."""


@dataclass(frozen=True)
class Threshold(Decision):
    """The probability of the target reaches a threshold.

    Attributes:
        threshold: None: to be fitted, 0.5 until then.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = 0.5

    def of_image(self, rois: ImageRois) -> Tensor:
        """See `Decision`: the probabilities, with their odds divided by those of the threshold."""
        target = rois.probabilities[:, 1]
        if self.threshold is None or self.threshold == 0.5:
            return target
        odds = self.threshold / (1 - self.threshold)
        return target / (target + odds * (1 - target))

    def fitted(self, score: Score) -> Self:
        """Try thresholds from 0.2 to 0.7."""
        if self.threshold is not None:
            return self
        return _best((replace(self, threshold=0.5 + step / 40) for step in _by_size(-12, 8)), score)


@dataclass(frozen=True)
class Votes(Decision):
    """The target is more probable than each other class, and the other ROIs have a vote.

    Three explanations of a pixel compete: it is this ROI's target, another person's, or nobody's. An
    explanation's score is the log-probability of this ROI's class for it (target, non-target, background)
    plus `weight` times the log-probability of what the other ROIs that contain the pixel say: that it is not
    their target but another person (non-target), that it is the target of at least one, or that it is nobody
    (background). With two classes, non-target counts as background. A ROI without others, or `weight` 0,
    leaves the most probable class.

    Attributes:
        weight: of the votes. None: to be fitted, 0 until then.
        bias: added to the score of the target. None: to be fitted, 0 until then.
    """

    weight: Annotated[float, Field(ge=0, le=2)] | None = None
    bias: Annotated[float, Field(ge=-5, le=5)] | None = None

    def of_image(self, rois: ImageRois) -> Tensor:
        """See `Decision`. The values are the logistic function of the difference between the scores."""
        log = rois.probabilities.clamp(min=_LEAST).log()
        nobody, target, person = log[:, 0], log[:, 1], log[:, -1] if log.shape[1] > 2 else log[:, 0]
        target = target + (self.bias or 0.0)
        if self.weight:
            votes = count_votes(rois) if rois.votes is None else rois.votes
            mine, someone, none = (self.weight * votes).unbind(1)
            target, person, nobody = target + mine, person + someone, nobody + none
        return (target - torch.maximum(person, nobody)).sigmoid()

    def fitted(self, score: Score) -> Self:
        """Try biases from -1 to 2 and weights from 0 to 1, in turn."""
        best = replace(self, weight=self.weight or 0.0, bias=self.bias or 0.0)
        for _ in range(2):
            if self.bias is None:
                best = _best((replace(best, bias=step / 10) for step in _by_size(-10, 20)), score)
            if self.weight is None:
                best = _best((replace(best, weight=step / 10) for step in range(11)), score)
        return best


def mask_scores(rois: ImageRois, decided: Tensor, calibration: Calibration) -> Tensor:
    """Return the score of each mask, [R]: its predicted IoU with the true mask, 0 to 1; 0 if it is empty.

    It is the expected intersection of the mask with the true one, divided by their expected union, if the
    probability of the target is taken at its word; its logit is then calibrated. Exportable to ONNX.

    Args:
        rois: the ROIs of an image; cells of their grids count if their centre is inside the ROI.
        decided: [R, h, w] from `Decision.of_image`.
        calibration: fitted to annotated ROIs.
    """
    rows, columns = (
        _inside(rois.extents[:, axis::2], rois.boxes[:, axis::2], decided.shape[2 - axis]) for axis in (1, 0)
    )
    inside = (rows[:, :, None] & columns[:, None]).float()
    target, mask = rois.probabilities[:, 1] * inside, (decided >= 0.5).float() * inside
    intersection = (target * mask).sum(dim=(1, 2))
    union = (mask + target * (1 - mask)).sum(dim=(1, 2)).clamp(min=LEAST_SCORE)
    expected = intersection / union
    odds = expected.clamp(LEAST_SCORE, 1 - LEAST_SCORE).logit()
    return (odds * calibration.slope + calibration.offset).sigmoid() * (expected > 0)


def _inside(extents: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Return which cells of one axis have their centre inside the ROI, [R, cells].

    Args:
        extents: [R, 2] start and end of each grid.
        boxes: [R, 2] start and end of each ROI.
        cells: of the grid.
    """
    start, end = extents[:, :1], extents[:, 1:]
    centers = start + (end - start) * (torch.arange(cells, device=extents.device) + 0.5) / cells
    return (centers >= boxes[:, :1]) & (centers <= boxes[:, 1:])


def with_votes(prediction: RoiPrediction, rois: Tensor, image_size: tuple[int, int]) -> RoiPrediction:
    """Return the prediction with its votes counted, so that several decisions can use them.

    Args:
        prediction: of all ROIs of its images.
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.
        image_size: (H, W) of the input.
    """
    votes = [count_votes(one) for one in _images(prediction, rois, image_size)]
    return replace(prediction, votes=torch.cat(votes)) if votes else prediction


def _images(prediction: RoiPrediction, rois: Tensor, image_size: tuple[int, int]) -> Iterator[ImageRois]:
    """Yield the ROIs of each image that has some, in single precision."""

    def part(tensor: Tensor) -> Tensor:
        return tensor[start:end].float().to(prediction.target.device)

    start = 0
    for count in torch.bincount(rois[:, 0].long()).tolist():
        end = start + count
        if count:
            votes = None if prediction.votes is None else part(prediction.votes)
            classes = part(prediction.classes())
            yield ImageRois(classes, part(prediction.extents), part(rois[:, 1:]), image_size, votes)
        start = end


def _by_size(first: int, last: int) -> list[int]:
    """Return the integers from first to last, the smallest absolute values first."""
    return sorted(range(first, last + 1), key=abs)


def _best(candidates: Iterable[Any], score: Score) -> Any:
    """Return the candidate with the largest score, of equal ones the first."""
    return max(candidates, key=score)


def count_votes(rois: ImageRois) -> Tensor:
    """Return what the other ROIs say to each ROI, [R, 3, h, w], as in `Votes`; 0 where there are none.

    The log-probabilities of all ROIs are added up on the image, each inside its ROI, and read back on the
    grid of each ROI, less its own: two matrix products per ROI and class instead of one per pair of ROIs.
    """
    said, extents, boxes, image_size = _said(rois.probabilities), rois.extents, rois.boxes, rois.image_size
    grid = (said.shape[2], said.shape[3])

    def axes(part: slice) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return _axes(extents[part], boxes[part], image_size, grid)

    # the number of ROIs is a plain int except during export
    parts = [slice(None)]
    if type(boxes.shape[0]) is int:
        parts = [slice(start, start + _AT_ONCE) for start in range(0, max(1, len(boxes)), _AT_ONCE)]
    kept = axes(parts[0]) if len(parts) == 1 else None  # of many ROIs they are large, and computed twice
    sums = (_on_images(said[part], *(kept or axes(part)), rois.belongs) for part in parts)
    total = sum(sums, start=said.new_zeros(()))
    indexed = boxes if rois.belongs is None else rois.belongs.argmax(dim=0)[:, None]
    votes = []
    for part in parts:
        (rows, read_rows), (columns, read_columns) = kept or axes(part)
        own = (read_rows @ rows)[:, None] @ said[part] @ (read_columns @ columns)[:, None].mT
        votes.append(crop_rois(total, indexed[part], read_rows, read_columns) - own)
    person, not_target, nobody, others = torch.cat(votes).unbind(1)
    someone = (1 - not_target.clamp(max=0).exp()).clamp(min=_LEAST_VOTE).log() * others.clamp(0, 1)
    return torch.stack([person, someone, nobody], dim=1)


def _said(probabilities: Tensor) -> Tensor:
    """Return the summands of the votes [R, 4, h, w]: person, not the target, nobody (logarithms), and 1."""
    log = probabilities.clamp(min=_LEAST_VOTE).log()
    person = log[:, -1] if log.shape[1] > 2 else log[:, 0]
    not_target = (1 - probabilities[:, 1]).clamp(min=_LEAST_VOTE).log()
    return torch.stack([person, not_target, log[:, 0], torch.ones_like(person)], dim=1)


def _on_images(
    said: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], belongs: Tensor | None
) -> Tensor:
    """Return the sum over the ROIs of each image of their maps [R, C, h, w] on it, [B, C, H, W]."""
    bands = rows[0][:, None] @ said  # [R, C, H, w]
    if belongs is None:
        return (bands.permute(1, 2, 0, 3).flatten(2) @ columns[0].mT.flatten(0, 1))[None]
    maps = bands @ columns[0][:, None].mT
    return (belongs @ maps.flatten(1)).unflatten(1, maps.shape[1:])


def _axes(
    extents: Tensor, boxes: Tensor, image_size: tuple[int, int], grid: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `_axis` of the rows and of the columns."""
    return (
        _axis(extents[:, 1::2], boxes[:, 1::2], image_size[0], grid[0]),
        _axis(extents[:, ::2], boxes[:, ::2], image_size[1], grid[1]),
    )


def _axis(extents: Tensor, boxes: Tensor, size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return the weights of one axis that paste grids on the image [R, size, cells] and read them back.

    Args:
        extents: [R, 2] start and end of each grid.
        boxes: [R, 2] start and end of each ROI; nothing is pasted outside.
        size: of the image.
        cells: of the grid.
    """
    start, end = extents.unbind(1)
    pixels = torch.arange(size, device=extents.device)
    inside = centers_inside(boxes[:, 0], boxes[:, 1], pixels)[..., None]
    paste = paste_weights(start, end, cells, pixels) * inside
    return paste, crop_weights(start, end, size, cells, 1)
