"""PointRend: a coarse mask, refined at the points that are uncertain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.types import Share, Size
from roiseg.decoders.base import (
    Context,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    NumClasses,
    check_part,
    doublings,
)
from roiseg.decoders.layers.convolution import FeatureFusion, msra_init, predictor_init
from roiseg.geometry.roi_align import point_sample


class PointHead(nn.Module):
    """Labels single points; the coarse logits join the input of every layer.

    Args:
        in_channels: of the features at a point.
        mid_channels: width of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, in_channels: int, num_classes: int, mid_channels: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels, *[mid_channels] * depth]
        layers = [nn.Linear(width + num_classes, mid_channels) for width in widths[:-1]]
        for layer in layers:
            msra_init(layer)
        self.layers = nn.ModuleList(layers)
        self.predict = nn.Linear(widths[-1] + num_classes, num_classes)
        predictor_init(self.predict)

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Classify points: features [R, P, C] and coarse logits [R, P, K] -> logits [R, K, P]."""
        for layer in self.layers:
            features = F.relu(layer(torch.cat([features, coarse], dim=2)))
        return self.predict(torch.cat([features, coarse], dim=2)).transpose(1, 2)


class PointRendDecoder(Decoder):
    """Refines another decoder's logits by a small network at chosen points (Kirillov et al., CVPR 2020).

    A point's label comes from image features and coarse logits, both read bilinearly at the point, by a
    network of three hidden layers of 256 units (200,460 parameters for 3 classes), the same for all
    points. It is trained on 196 points per ROI: the 147 most uncertain of 3 x 196 random ones,
    and 49 random ones. In evaluation the grid is doubled repeatedly (bilinear), and each time the 784
    most uncertain cells get new logits. As in the source, grids of 784 cells or fewer are skipped
    but for the finest of them, which is computed whole: from 7x7 coarse cells with 784 points 28x28
    whole, then 56x56, 112x112 and so on at 784 points each.

    Differs from the source: the ROI is given. One softmax over K classes replaces a sigmoid mask per
    category, so a point is uncertain by -(best - second best logit), as in the paper's semantic variant,
    not by -|logit|. A sum of all layers at the finest stride replaces the pyramid's finest level; beyond
    its border it continues with the border's values instead of 0. The coarse logits are trained at
    `output_size` (upsampled) instead of on 7x7 cells. The grid ends at 56x56 by default, the
    source's at 224x224; a coarse grid above 784 cells is refined only after its first doubling.

    Args:
        coarse: makes the coarse decoder, in the roi frame, of (in_channels, strides, image_size).
        output_size: (h, w) of the logits; the coarse decoder's times 2, 4, ...
        mid_channels: of the features that points read, and of the hidden layers.
        depth: number of hidden layers.
        train_points: points per ROI in training.
        oversample_ratio: number of candidate points per chosen point.
        importance_ratio: share of points chosen by uncertainty.
        subdivision_points: cells that get new logits after each doubling, in evaluation. Rounding can
            change the selection, above all in half precision; h * w of `output_size` selects all.
        **shared: see `DecoderOptions`; also applied to the coarse decoder.

    Raises:
        UserError: the coarse decoder does not fit, or `output_size` cannot be reached from its grid.
    """

    provides = ("points", "point_coords")
    needs = ("points",)

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        coarse: Callable[..., Decoder],
        num_classes: NumClasses = 3,
        output_size: Size = (56, 56),
        mid_channels: PositiveInt = 256,
        depth: PositiveInt = 3,
        train_points: PositiveInt = 196,
        oversample_ratio: PositiveInt = 3,
        importance_ratio: Share = 0.75,
        subdivision_points: PositiveInt = 784,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        self.coarse = coarse(in_channels=in_channels, strides=strides, image_size=image_size)
        check_part("coarse", self.coarse, "roi", num_classes)
        self.prompts = self.coarse.prompts
        self.grids = _refined_grids(self.coarse.output_size, self.output_size, subdivision_points)
        self.fuse = FeatureFusion(in_channels, strides, mid_channels)
        self.head = PointHead(mid_channels, num_classes, mid_channels, depth)
        self.train_points = train_points
        self.candidates = oversample_ratio * train_points
        self.uncertain_points = int(importance_ratio * train_points)
        self.subdivision_points = subdivision_points

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`.

        In training there are `points`, logits [R, K, P] at P points, and `point_coords` [R, P, 2], their
        x, y with 0..1 over the ROI; logits are the coarse decoder's, upsampled.
        """
        coarse = self.coarse(features, rois, context).logits
        fine = self.fuse(features)
        if not self.training:
            return DecoderOutput(self._subdivide(fine, rois, coarse))
        coords = self._training_points(coarse.detach())
        points = self._label(fine, rois, coarse, coords)
        return DecoderOutput(_upsample(coarse, self.output_size), {"points": points, "point_coords": coords})

    def _label(self, fine: Tensor, rois: Tensor, coarse: Tensor, coords: Tensor) -> Tensor:
        """Return logits [R, K, P] at points `coords` [R, P, 2], from features and coarse logits."""
        boxes = rois[:, None, 1:].float()
        cells = (boxes[..., :2] + coords * (boxes[..., 2:] - boxes[..., :2])) / self.fuse.stride
        features = point_sample(fine, cells, rois[:, 0].long())
        return self.head(features, _read_grid(coarse, coords).to(features.dtype))

    def _training_points(self, coarse: Tensor) -> Tensor:
        """Sample points [R, P, 2], most of them where coarse logits [R, K, h, w] are uncertain."""
        count = coarse.shape[0]
        drawn = torch.rand(count, self.candidates, 2, device=coarse.device)
        doubt = _uncertainty(_read_grid(coarse, drawn).transpose(1, 2))
        best = doubt.topk(self.uncertain_points, dim=1).indices
        chosen = drawn.gather(1, best[..., None].expand(-1, -1, 2))
        uniform = torch.rand(count, self.train_points - self.uncertain_points, 2, device=coarse.device)
        return torch.cat([chosen, uniform], dim=1)

    def _subdivide(self, fine: Tensor, rois: Tensor, coarse: Tensor) -> Tensor:
        """Refine the coarse logits in steps to [R, K, *output_size]."""
        logits = coarse
        for height, width in self.grids:
            logits = _upsample(logits, (height, width))
            flat = logits.flatten(2)
            points = min(self.subdivision_points, height * width)
            index = _uncertainty(flat).topk(points, dim=1).indices
            x = ((index % width).float() + 0.5) / width
            y = (torch.div(index, width, rounding_mode="floor").float() + 0.5) / height
            refined = self._label(fine, rois, coarse, torch.stack([x, y], dim=2)).to(flat.dtype)
            places = index[:, None].expand(-1, self.num_classes, -1)
            logits = flat.scatter(2, places, refined).unflatten(2, (height, width))
        return logits


def _read_grid(logits: Tensor, coords: Tensor) -> Tensor:
    """Sample logits [R, K, h, w] at points [R, P, 2] with x, y 0..1 over the grid: [R, P, K]."""
    scale = coords.new_tensor([logits.shape[3], logits.shape[2]])
    return point_sample(logits, coords * scale, torch.arange(logits.shape[0], device=logits.device))


def _uncertainty(logits: Tensor) -> Tensor:
    """Return the uncertainty [R, P] of logits [R, K, P]: 0 if two classes are equally likely, else lower."""
    best = logits.float().topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _refined_grids(coarse: tuple[int, int], output: tuple[int, int], points: int) -> list[tuple[int, int]]:
    """Return the grids whose cells are refined: the finest that `points` cover, and all finer ones."""
    steps = doublings(coarse, output, "the grid of model.coarse", least=1)
    grids = [(coarse[0] << step, coarse[1] << step) for step in range(steps + 1)]
    covered = [grid for grid in grids if grid[0] * grid[1] <= points]
    return covered[-1:] + grids[max(1, len(covered)) :]
