"""Export a decoder as an ONNX graph: features and ROIs in, masks out."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, ValueInfoProto, helper
from torch import Tensor, nn

from roiseg.decoders.base import Context, Decoder
from roiseg.geometry.paste import paste_masks
from roiseg.inference.decision import Decision, ImageRois, Threshold, mask_scores
from roiseg.onnx_export.outputs import (
    DEFAULT,
    LABELS,
    MASK_SCORES,
    MASKS,
    ROI_MASKS,
    decided_classes,
    dilated,
    labels_of,
    only_largest,
)

ROIS, IMAGE, PIXEL_SIZE = "rois", "image", "pixel_size"
_PROBABILITY = Threshold()  # leaves the probability of the target


class MaskGraph(nn.Module):
    """The exported computation: decode, decide the masks, and paste them onto the input.

    Args:
        decoder: a trained decoder.
        dtype: precision of the decoder; inputs, ROI geometry and masks are always float32.
        decision: makes masks of its probabilities.
        outputs: names, see `roiseg.onnx_export.outputs`.
        dilate: pixels by which the masks on the input are dilated.
    """

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype = torch.float32,
        decision: Decision = _PROBABILITY,
        outputs: Sequence[str] = DEFAULT,
        dilate: int = 0,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.dilate = dilate
        self.decision = decision
        self.decoder = decoder.to(dtype)
        self.dtype = dtype

    def forward(
        self,
        features: Sequence[Tensor],
        rois: Tensor,
        image: Tensor | None = None,
        pixel_size: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Decode, decide, paste and score.

        Args:
            features: [B, C_l, H_l, W_l] per layer.
            rois: [N, 4] normalized x1, y1, x2, y2 for B = 1; [N, 5] with the image's index in front, in any
                order, while a graph for any B is exported.
            image: [B, 3, H, W] the detector's input tensor, if the decoder has a detail branch.
            pixel_size: [B] size of an input pixel, if the decoder has FiLM.

        Returns:
            The outputs, in their order.
        """
        stride = self.decoder.strides[0]
        height, width = image_size = (features[0].shape[2] * stride, features[0].shape[3] * stride)
        sides = (width, height, width, height)
        boxes = torch.stack([rois[:, n - 4] * side for n, side in enumerate(sides)], dim=1)
        index, belongs = torch.zeros_like(boxes[:, :1]), None
        if rois.shape[1] > 4:
            index = rois[:, :1]
            belongs = (torch.arange(features[0].shape[0])[:, None] == index[:, 0]).float()
        indexed = torch.cat([index, boxes], dim=1)
        context = Context(None if image is None else image.to(self.dtype), pixel_size)
        logits = self.decoder([feature.to(self.dtype) for feature in features], indexed, context).logits
        windows = self.decoder.extents(indexed)
        found = ImageRois(logits.float().softmax(dim=1), windows, boxes, image_size, belongs=belongs)
        decided = self.decision.of_image(found)
        masks = dilated(paste_masks(decided, windows, image_size, within=boxes), self.dilate)
        results = {  # the exported graph computes only those that it gives
            MASKS: only_largest(masks, belongs) if self.decision.exclusive else masks,
            ROI_MASKS: decided_classes(found.probabilities, decided),
            LABELS: labels_of(masks, belongs),
            MASK_SCORES: mask_scores(found, decided, self.decision.calibration),
        }
        return tuple(results[name] for name in self.outputs)


@dataclass(frozen=True)
class FeatureInput:
    """One feature input of the exported decoder."""

    name: str  # of the ONNX input
    shape: tuple[int, int, int]  # C, H, W


def export_decoder(
    decoder: Decoder,
    features: Sequence[FeatureInput],
    image_size: tuple[int, int],
    opset: int = 18,
    half: bool = False,
    decision: Decision = _PROBABILITY,
    outputs: Sequence[str] = DEFAULT,
    dilate: int = 0,
    batch: bool = False,
    free_size: bool = False,
) -> ModelProto:
    """Export a decoder with a dynamic number of ROIs.

    Args:
        decoder: trained; it is not modified.
        features: its inputs, in order.
        image_size: (H, W) of the extractor's input and of the masks.
        opset: ONNX operator set.
        half: weights and arithmetic of the decoder in fp16.
        decision, outputs, dilate: see `MaskGraph`.
        batch: for any number of images.
        free_size: for inputs of any size; the decoder must have `any_size`.

    Returns:
        A model with inputs `<feature names>`, `rois` [N, 4] (normalized x1, y1, x2, y2; [N, 5] with the
        image's index in front if `batch`), where the decoder needs them `image` and `pixel_size`, and these
        outputs.
    """
    strides = decoder.strides
    largest = max(strides)
    dtype = torch.float16 if half else torch.float32
    graph = MaskGraph(_portable(decoder).cpu(), dtype, decision, outputs, dilate).eval()
    images = 2 if batch else 1
    # a free height must not be equal to a free width by chance
    height, width = image_size[0], image_size[1] + (largest if free_size else 0)
    free: dict[int, dict[int, Any]] = {}
    for stride in (*strides, 1):
        free[stride] = {0: torch.export.Dim("batch")} if batch else {}
        if free_size:
            cells = (largest // stride * torch.export.Dim(name) for name in ("rows", "columns"))
            free[stride] |= dict(enumerate(cells, 2))
    blanks = tuple(
        torch.zeros(images, feature.shape[0], height // stride, width // stride)
        for feature, stride in zip(features, strides, strict=True)
    )
    rois = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.8], [0.0, 0.0, 1.0, 1.0]])
    if batch:
        rois = torch.cat([torch.tensor([[0.0], [1.0], [1.0]]), rois], dim=1)
    given = {IMAGE: torch.ones(images, 3, height, width), PIXEL_SIZE: torch.ones(images)}
    context = {name: given[name] for name in decoder.context_inputs}
    free_context = {IMAGE: free[1], PIXEL_SIZE: {axis: dim for axis, dim in free[1].items() if axis == 0}}
    with quiet_export():
        program = torch.onnx.export(
            graph,
            (blanks, rois),
            kwargs=context,
            input_names=[*(feature.name for feature in features), ROIS, *context],
            output_names=list(outputs),
            dynamic_shapes={
                "features": tuple(free[stride] for stride in strides),
                "rois": {0: torch.export.Dim("num_rois")},
                **{name: free_context[name] for name in context},
            },
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if free_size:
        parts = dict(zip((feature.name for feature in features), strides, strict=True))
        parts |= dict.fromkeys((IMAGE, MASKS, LABELS), 1)
        for value in (*model.graph.input, *model.graph.output):
            if value.name in parts:
                sides = (f"{side}/{parts[value.name]}".removesuffix("/1") for side in ("height", "width"))
                set_shape(value, [*sides])
    return model


def set_shape(value: ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Declare the last dimensions of an input or output: numbers, or names of what is free."""
    for dim, side in zip(value.type.tensor_type.shape.dim[-len(shape) :], shape, strict=True):
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side


def simplify_graph(model: ModelProto) -> ModelProto:
    """Fold constants and remove redundant nodes with onnxslim."""
    import onnxslim

    return onnxslim.slim(model)


def save_onnx(model: ModelProto, path: Path, metadata: dict[str, str]) -> None:
    """Check a model and write it, with metadata, as one self-contained file."""
    _strip_traces(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}  # merging lists some twice
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in versions.items())
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def seal(metadata: Mapping[str, str], tensors: Iterable[str]) -> str:
    """Return the SHA-256 of the metadata that an export writes; entries of other programs are ignored.

    Args:
        metadata: of the file.
        tensors: names of the graph's inputs and outputs.
    """
    ours = {*_SEALED, *tensors}
    entries = sorted((key, value) for key, value in metadata.items() if key in ours)
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


_SEALED = (
    "producer", "checkpoint", "epoch", "image_size", "layers", "preprocess", "merged", "postprocess",
    "image_input", "extractor_sha256", "category_id", "decision", "dilate",
)  # fmt: skip


def _strip_traces(model: ModelProto) -> None:
    """Remove the exporter's stack traces, which contain paths of this machine."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


class _PortableGroupNorm(nn.Module):
    """GroupNorm in basic operators.

    The exporter writes nn.GroupNorm with a reshape to (N, groups, -1), on which ONNX Runtime divides
    by zero for N = 0. Statistics are computed in float32: squares of half precision overflow above 256.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, (_, channels, height, width) = self.norm, x.shape
        grouped = x.float().reshape(-1, norm.num_groups, channels // norm.num_groups, height, width)
        centered = grouped - grouped.mean(dim=(2, 3, 4), keepdim=True)
        variance = centered.square().mean(dim=(2, 3, 4), keepdim=True)
        normed = (centered * torch.rsqrt(variance + norm.eps)).to(x.dtype)
        normed = normed.reshape(-1, channels, height, width)
        return normed * norm.weight[:, None, None] + norm.bias[:, None, None]


def _portable(decoder: Decoder) -> Decoder:
    """Return a copy whose modules export to operators that every runtime computes correctly."""
    decoder = copy.deepcopy(decoder)
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, _PortableGroupNorm(child))
    return decoder


@contextmanager
def quiet_export() -> Iterator[None]:
    """Suppress the exporter's output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
