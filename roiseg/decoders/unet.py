"""U-Net on the whole feature map, with the ROI as extra channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.errors import UserError
from roiseg.common.types import Size
from roiseg.decoders.base import Context, DecoderOptions, DecoderOutput, Frame, NumClasses, required
from roiseg.decoders.layers.convolution import FeatureFusion, GroupNorm, conv_norm_relu, group_count
from roiseg.decoders.layers.image_decoder import ImageDecoder
from roiseg.geometry.roi_align import cell_cover

ROI_MAPS = ("inside", "dx", "dy", "width", "height", "relative_x", "relative_y")
MAX_RELATIVE = 4.0  # sides of the ROI; relative coordinates of a narrow ROI would be unbounded


def roi_maps(rois: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Compute the maps `ROI_MAPS` of each ROI; distances are those of cell centres from the ROI's centre.

    Args:
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels.
        image_size: (H, W) of the input in pixels.
        size: (h, w) of the maps.

    Returns:
        float32 [R, 7, h, w]: share of the cell inside the ROI; distance in x and y as a share of the
        input's width and height; the ROI's width and height as such shares; distance in x and y in
        widths and heights of the ROI, within -4..4.
    """
    boxes = rois[:, 1:].float()
    cover_x, dx, width, relative_x = _along(boxes[:, 0], boxes[:, 2], image_size[1], size[1])
    cover_y, dy, height, relative_y = _along(boxes[:, 1], boxes[:, 3], image_size[0], size[0])
    inside = cover_y[:, :, None] * cover_x[:, None, :]
    columns = torch.stack([dx, relative_x], dim=1)[:, :, None, :].expand(-1, -1, *size)
    rows = torch.stack([dy, relative_y], dim=1)[:, :, :, None].expand(-1, -1, *size)
    sides = torch.stack([width, height], dim=1)[:, :, None, None].expand(-1, -1, *size)
    return torch.cat(
        [inside[:, None], columns[:, :1], rows[:, :1], sides, columns[:, 1:], rows[:, 1:]], dim=1
    )


def _along(start: Tensor, end: Tensor, pixels: int, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for one axis cover [R, cells], distance [R, cells], side [R], relative position [R, cells]."""
    edges = torch.arange(cells, dtype=start.dtype, device=start.device) * (pixels / cells)
    cover = cell_cover(start * (cells / pixels), end * (cells / pixels), cells)
    distance = edges + pixels / cells / 2 - ((start + end) / 2)[:, None]
    relative = distance / (end - start).clamp(min=1e-6)[:, None]
    return cover, distance / pixels, (end - start) / pixels, relative.clamp(-MAX_RELATIVE, MAX_RELATIVE)


class UNetDecoder(ImageDecoder):
    """Reads the whole feature map together with maps of where the ROI lies.

    A 1x1 convolution brings every layer to `channels` at the finest layer's stride. The first 3x3
    convolution reads these features and the seven `roi_maps`; being linear, its features part is
    computed once per image, its ROI part once per ROI, and the two are summed. A U-Net (Ronneberger et
    al., 2015) of `depth` levels follows, then bilinear doublings to `map_stride`, each of which
    halves the channels, and a 1x1 convolution to the logits.

    Differs from the source: GroupNorm after each convolution, zero padding that keeps the size,
    bilinear upsampling for the 2x2 up-convolution, 32 channels (64) and 3 levels (4), because all of
    it runs once per ROI; the ROI maps; frozen features for an image; K classes instead of 2.

    Args:
        channels: width at the finest level, doubled at each level down.
        depth: number of times the map is halved and doubled again.
        map_stride: input pixels per cell of the logits: the finest feature stride, its half or its
            quarter; None halves it (at most twice) as long as 4 or more pixels are left.
        prior: also read the probabilities of an earlier decoder, as further maps (image frame only).

    Raises:
        UserError: `map_stride` is not one of these, `depth` halves the map below one cell, or `prior` in
            the roi frame.
    """

    provides = ("embeddings",)
    fixed_size = True

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        channels: PositiveInt = 32,
        depth: PositiveInt = 3,
        map_stride: PositiveInt | None = None,
        frame: Frame = "image",
        output_size: Size = (56, 56),
        prior: bool = False,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        doublings = _doublings(min(strides), map_stride)
        map_stride = min(strides) >> doublings
        super().__init__(
            in_channels, strides, image_size, num_classes, map_stride, frame, output_size, **shared
        )
        if prior and frame == "roi":
            raise UserError(
                "model.prior=true needs model.frame=image: with frame=roi an earlier decoder's probabilities "
                "lie on the ROI's grid, not on the map this model reads"
            )
        self.grid = (self.map_size[0] >> doublings, self.map_size[1] >> doublings)  # of the U-Net
        _check_depth(depth, self.grid)
        self.prompts = ("prior",) if prior else ()
        maps = len(ROI_MAPS) + (num_classes if prior else 0)
        self.read_features = nn.Sequential(
            FeatureFusion(in_channels, strides, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.read_rois = nn.Conv2d(maps, channels, 3, padding=1, bias=False)
        self.enter = nn.Sequential(
            GroupNorm(group_count(channels), channels),
            nn.ReLU(inplace=True),
            conv_norm_relu(channels, channels),
        )
        self.unet = UNet(channels, depth)
        widths = [max(1, channels >> step) for step in range(doublings + 1)]
        self.refine = nn.Sequential(*(_doubling(wide, narrow) for wide, narrow in pairwise(widths)))
        self.predict = nn.Conv2d(widths[-1], num_classes, 1)

    def decode_map(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `ImageDecoder.decode_map`; `embeddings` [R, D, *map_size] are what the last layer sees."""
        seen = self.read_features(features)
        maps = roi_maps(rois, self.image_size, self.grid).to(seen.dtype)
        if self.prompts:
            prior = required(context.prior, "prior", "prior").to(seen.dtype)
            maps = torch.cat([maps, F.interpolate(prior, self.grid, mode="area")], dim=1)
        first = seen[rois[:, 0].long()] + self.read_rois(maps)
        embeddings = self.refine(self.unet(self.enter(first)))
        return DecoderOutput(self.predict(embeddings), {"embeddings": embeddings})


class UNet(nn.Module):
    """All of a U-Net but its first two and its last convolution: [N, C, H, W] -> [N, C, H, W] for any H, W.

    A level down halves the map by max pooling, an odd side up (13 -> 7), and doubles the channels by two
    3x3 convolutions; a level up doubles the map bilinearly, cuts what an odd side had too much (14 -> 13,
    so that cells stay where they were), and two 3x3 convolutions read it beside the level's own map.

    Args:
        depth: number of levels down.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [channels << level for level in range(depth + 1)]
        self.down = nn.ModuleList(_two_convolutions(fine, coarse) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(_two_convolutions(fine + coarse, fine) for fine, coarse in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(F.max_pool2d(x, 2, ceil_mode=True))
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            height, width = skip.shape[2:]
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x[:, :, :height, :width]], dim=1))
        return x


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm_relu(in_channels, out_channels), conv_norm_relu(out_channels, out_channels)
    )


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        conv_norm_relu(in_channels, out_channels),
    )


def _doublings(stride: int, map_stride: int | None) -> int:
    """Return how often the map of the finest features is doubled to reach `map_stride`."""
    possible = [steps for steps in range(3) if stride % (1 << steps) == 0]
    if map_stride is None:
        return max(steps for steps in possible if steps == 0 or stride >> steps >= 4)
    for steps in possible:
        if stride >> steps == map_stride:
            return steps
    choices = ", ".join(str(stride >> steps) for steps in possible)
    raise UserError(
        f"model.map_stride must be one of {choices} (the finest feature stride, its half or quarter) or "
        f"null, got {map_stride}"
    )


def _check_depth(depth: int, grid: tuple[int, int]) -> None:
    most = min(grid).bit_length() - 1
    if depth > most:
        raise UserError(
            f"model.depth must be at most {most}, as often as the {grid[0]}x{grid[1]} map of the finest "
            f"features can be halved, got {depth}"
        )
