"""Decoders that predict on a map over the whole input: their base, and one vector per ROI from a map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import (
    Context,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    Frame,
    NumClasses,
    grid_size,
    require_multiple,
)
from roiseg.decoders.layers.convolution import conv_norm_relu
from roiseg.geometry.roi_align import resample, roi_align


class ImageDecoder(Decoder):
    """A decoder whose map covers the whole input, with one cell per `map_stride` pixels.

    With `frame="image"` the map itself is trained, also outside the ROI; with `frame="roi"` it is sampled on
    a grid of `output_size` over the ROI, and trained only there. A subclass implements `decode_map`.

    Args:
        map_stride: input pixels per cell of the map.
        frame: "image" or "roi".
        output_size: (h, w) of the logits in the roi frame; the image frame has the map's own size.

    Raises:
        UserError: `map_stride` does not divide the input.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses,
        map_stride: int,
        frame: Frame,
        output_size: Size,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        height, width = grid_size(image_size)
        for side in (height, width):
            name = f"model: for a map of stride {map_stride}, each side of the input {height}x{width}"
            require_multiple(name, side, map_stride)
        map_size = (height // map_stride, width // map_stride)
        size = map_size if frame == "image" else output_size
        super().__init__(in_channels, strides, image_size, num_classes, frame, size, **shared)
        self.map_stride = map_stride
        self.map_size = map_size

    @abstractmethod
    def decode_map(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """Return logits [R, K, *map_size]; other outputs with 4 or more dimensions are such maps, too."""

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`."""
        output = self.decode_map(features, rois, context)
        if self.frame == "image":
            return output
        auxiliary = {
            name: self._crop(value, rois) if value.dim() >= 4 else value
            for name, value in output.auxiliary.items()
        }
        return replace(output, logits=self._crop(output.logits, rois), auxiliary=auxiliary)

    def _crop(self, maps: Tensor, rois: Tensor) -> Tensor:
        """Read maps [R, ..., *map_size] on a grid over each ROI."""
        boxes = rois[:, 1:].float() / self.map_stride
        return resample(maps.flatten(1, -3), boxes, self.output_size, sampling_ratio=2).unflatten(
            1, maps.shape[1:-2]
        )


def finer_stride(strides: Sequence[int], upsample: int) -> int:
    """Return the stride of a map `upsample` times finer than the finest layer.

    Raises:
        UserError: `upsample` does not divide that layer's stride.
    """
    require_multiple("the finest layer's stride, which model.upsample divides,", min(strides), upsample)
    return min(strides) // upsample


class RoiVector(nn.Module):
    """RoIAlign, 3x3 convolutions with GroupNorm and ReLU on the crop, mean over its cells.

    Args:
        channels: of the feature map, and of the vector.
        roi_size: (h, w) cells RoIAlign crops.
    """

    def __init__(self, channels: int, roi_size: Sequence[int], depth: int) -> None:
        super().__init__()
        self.roi_size = grid_size(roi_size)
        self.tower = nn.Sequential(*(conv_norm_relu(channels, channels) for _ in range(depth)))

    def forward(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Pool each ROI: [B, C, H, W] of `stride`, ROIs [R, 5] (see `roi_align`) -> [R, C]."""
        return self.tower(roi_align(features, rois, self.roi_size, stride)).mean(dim=(2, 3))
