"""CondInst: each ROI generates the filters of its own small mask head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import Context, DecoderOptions, DecoderOutput, Frame, NumClasses
from roiseg.decoders.layers.convolution import FeatureFusion, conv_norm_relu
from roiseg.decoders.layers.image_decoder import ImageDecoder, RoiVector, finer_stride

MASK_CHANNELS = 8  # of the mask features
HEAD_CHANNELS = 8  # of the dynamic head's hidden layers
SIZES_OF_INTEREST = (64, 128, 256, 512, 1024)  # pixels, one per level of FCOS


class CondInstDecoder(ImageDecoder):
    """Segments each ROI with its own filters on mask features that all ROIs share.

    CondInst (Tian, Shen & Chen, Conditional Convolutions for Instance Segmentation, ECCV 2020). The mask
    branch, `mask_depth` 3x3 convolutions and a 1x1 one, turns the fused layers into 8 mask features
    at the finest stride, once per image. A controller reads a vector from each ROI: the weights and biases
    of three 1x1 convolutions of 8 channels, with ReLU between, that map the mask features and 2
    coordinates relative to the ROI to its logits: 169 numbers for one output, 187 for three classes.
    The logits are then enlarged `upsample` times, bilinearly.

    Differs from the source: no FCOS runs beside it. The instance's location is the centre of the ROI, its
    level (which size coordinates are divided by) the one FCOS trains that location on. The controller is
    linear in a vector read from the ROI (`RoiVector`) where the source's reads 3x3 cells, 256 wide, of
    its box tower; weights of std 0.01 there become 0.48 / sqrt(width) here, with which filters start
    out as large, and biases start at 0. A crop hides how large the ROI is, which a box tower regresses,
    so width and height, in sizes of interest, go to the controller, too. The head has K outputs for a
    softmax, not one for a sigmoid. Layers are fused by 1x1 convolutions, not 3x3, GroupNorm stands
    in for BatchNorm, and enlarging keeps cell borders, not centres, aligned. The semantic side loss is
    left out; the source's only mask loss is Dice.

    Args:
        mid_channels: width of the mask branch and the controller.
        mask_depth: 3x3 convolutions of the mask branch.
        roi_size: (h, w) cells RoIAlign crops for the controller.
        roi_depth: 3x3 convolutions on that crop.
        upsample: factor by which the map is finer than the finest layer; divides its stride.

    Raises:
        UserError: `upsample` does not divide the finest stride.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        mid_channels: PositiveInt = 128,
        mask_depth: NonNegativeInt = 4,
        roi_size: Size = (7, 7),
        roi_depth: NonNegativeInt = 2,
        upsample: PositiveInt = 2,
        frame: Frame = "image",
        output_size: Size = (56, 56),
        **shared: Unpack[DecoderOptions],
    ) -> None:
        map_stride = finer_stride(strides, upsample)
        super().__init__(
            in_channels, strides, image_size, num_classes, map_stride, frame, output_size, **shared
        )
        self.upsample = upsample
        self.fuse = FeatureFusion(in_channels, strides, mid_channels)
        self.mask_branch = nn.Sequential(
            *(conv_norm_relu(mid_channels, mid_channels) for _ in range(mask_depth)),
            nn.Conv2d(mid_channels, MASK_CHANNELS, 1),
        )
        self.read = RoiVector(mid_channels, roi_size, roi_depth)
        self.controller = nn.Linear(mid_channels + 2, filter_count(num_classes))
        nn.init.normal_(self.controller.weight, std=0.01 * math.sqrt(9 * 256 / mid_channels))
        nn.init.zeros_(self.controller.bias)

    def decode_map(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `ImageDecoder`."""
        fused = self.fuse(features)
        stride = self.fuse.stride
        size = (rois[:, 3:] - rois[:, 1:3]) / size_of_interest(rois)[:, None]
        vector = self.read(fused, rois, stride)
        filters = self.controller(torch.cat([vector, size.to(vector.dtype)], dim=1))
        maps = self.mask_branch(fused)[rois[:, 0].long()]
        coordinates = relative_coordinates(rois, (maps.shape[2], maps.shape[3]), stride)
        inputs = torch.cat([coordinates.to(maps.dtype), maps], dim=1)
        logits = dynamic_head(inputs, filters, self.num_classes)
        return DecoderOutput(
            F.interpolate(logits, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        )


def head_shapes(outputs: int) -> list[tuple[int, int]]:
    """Return output and input channels of the dynamic head's layers."""
    return [
        (HEAD_CHANNELS, 2 + MASK_CHANNELS),
        (HEAD_CHANNELS, HEAD_CHANNELS),
        (outputs, HEAD_CHANNELS),
    ]


def filter_count(outputs: int) -> int:
    """Return the number of weights and biases of the dynamic head: 169 for one output."""
    return sum(rows * columns + rows for rows, columns in head_shapes(outputs))


def dynamic_head(inputs: Tensor, filters: Tensor, outputs: int) -> Tensor:
    """Run each ROI's own three 1x1 convolutions, ReLU between.

    Args:
        inputs: [R, 10, h, w].
        filters: [R, filter_count(outputs)], layer by layer the weights (output channel by output
            channel), then the biases.
        outputs: channels of the last layer.

    Returns:
        [R, outputs, h, w].
    """
    shapes = head_shapes(outputs)
    values = inputs.flatten(2)
    layers = filters.split([rows * columns + rows for rows, columns in shapes], dim=1)
    for number, (layer, (rows, columns)) in enumerate(zip(layers, shapes, strict=True)):
        weight = layer[:, : rows * columns].unflatten(1, (rows, columns))
        values = weight @ (values if number == 0 else values.relu()) + layer[:, rows * columns :, None]
    return values.unflatten(2, inputs.shape[2:])


def size_of_interest(rois: Tensor) -> Tensor:
    """Return the pixels by which coordinates of ROIs [R, 5] are divided: [R].

    FCOS (Tian et al., 2019) trains a location on the first level whose size reaches from it to the
    box's farthest edge; from the centre that is half the longer side.
    """
    reach = (rois[:, 3:] - rois[:, 1:3]).amax(dim=1) / 2
    sizes = rois.new_tensor(SIZES_OF_INTEREST)
    return sizes[(reach[:, None] > sizes[:-1]).sum(dim=1)]


def relative_coordinates(rois: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Return the offset from each cell's centre to the ROI's, x and y, in sizes of interest.

    Args:
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels.
        size: (h, w) cells of the map.
        stride: input pixels per cell.

    Returns:
        [R, 2, h, w]; positive left of and above the ROI's centre.
    """
    center = (rois[:, 1:3] + rois[:, 3:]) / 2
    interest = size_of_interest(rois)[:, None]
    rows = (torch.arange(size[0], device=rois.device) + 0.5) * stride
    columns = (torch.arange(size[1], device=rois.device) + 0.5) * stride
    x = (center[:, :1] - columns) / interest
    y = (center[:, 1:] - rows) / interest
    return torch.stack([x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=1)
