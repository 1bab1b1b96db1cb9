"""Check the detector, its tensors and boxes, and rehearse a training up to its first loss on one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from omegaconf import DictConfig
from onnx import ModelProto, ValueInfoProto
from rich.markup import escape
from rich.table import Table

from roiseg.config import build
from roiseg.config.run_summary import parameter_counts
from roiseg.data.batch import collate
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.feature_projection import feature_components
from roiseg.decoders.base import Decoder
from roiseg.diagnosis.finding import Diagnosis, Finding
from roiseg.extractor.cache.base import GB
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.graph import element_type, shape_as_text
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.projection import Components, projection_of
from roiseg.extractor.tensors import TensorInfo, image_input
from roiseg.geometry.boxes import iou


def inputs_and_outputs(model: ModelProto) -> Iterator[Finding]:
    """Report inputs and outputs."""
    yield Finding("detector's input", "ok", _words(image_input(model)))
    yield Finding("detector's outputs", "ok", "; ".join(map(_words, model.graph.output)))


def _words(value: ValueInfoProto) -> str:
    return f"{value.name}: {element_type(value) or 'no tensor'} {shape_as_text(value)}"


def overview(tensors: Sequence[TensorInfo]) -> Finding:
    """Report how many tensors can be decoded, and how to list them."""
    strides = sorted({tensor.stride for tensor in tensors if tensor.stride is not None})
    usable = sum(tensor.stride is not None for tensor in tensors)
    text = f"{len(tensors)}, of which {usable} can be decoded"
    if not usable:
        return Finding("detector's tensors", "error", text, "check extractor.preprocess.image_size")
    text += f", at strides {', '.join(map(str, strides))}"
    return Finding(
        "detector's tensors", "note", text, "tensors='*' lists all, tensors=Concat those with this name"
    )


def tensor_table(tensors: Sequence[TensorInfo], chosen: Sequence[str]) -> Table:
    """Lay out tensors for the terminal; those that training would read are marked."""
    table = Table(title="tensors of the detector (cost: share of its computation)")
    table.add_column("name", min_width=max((len(tensor.name) for tensor in tensors), default=0))
    for name in ("made by", "shape", "stride", "cost"):
        table.add_column(name, justify="right")
    table.add_column("extractor.layers")
    for tensor in tensors:
        mark = "chosen" if tensor.name in chosen else "can be" if tensor.stride else tensor.obstacle
        shape = "?" if tensor.shape is None else " x ".join(map(str, tensor.shape))
        style = "bold green" if tensor.name in chosen else None if tensor.stride else "dim"
        table.add_row(
            escape(tensor.name),
            escape(tensor.operator),
            shape,
            str(tensor.stride or ""),
            f"{tensor.cost:.0%}",
            mark,
            style=style,
        )
    return table


_ABOUT = "detector's boxes"
_ENOUGH = 1 / 3  # of the annotated boxes; a small detector misses small persons
_FOUND = 0.5  # IoU


def recall(data: RoiDataModule, images: int = 20) -> Iterator[Finding]:
    """Run the detector on some validation images and count the annotated boxes it finds."""
    extractor = data.extractor
    if extractor.postprocess is None:
        text = "not read (extractor.postprocess is null): training works without, prediction needs boxes=FILE"
        yield Finding(_ABOUT, "note", text, "for example postprocess@extractor.postprocess=yolo")
        return
    extractor.postprocess.plausibility.reported = True  # here, by a finding
    items = np.unique(np.linspace(0, len(data.dataset("val")) - 1, images).astype(int)).tolist()
    samples = data.samples("val", items)
    found = annotated = 0
    for sample in samples:
        inputs = extractor.preprocess(collate([sample]).images)
        _, (detections,) = extractor.run_with_detections(inputs)
        overlap = iou(sample.rois, detections.boxes)
        found += int((overlap.max(axis=1, initial=0) >= _FOUND).sum())
        annotated += len(sample.rois)
    text = f"{found} of {annotated} annotated boxes in {len(samples)} images found (IoU {_FOUND} or more)"
    good = found >= _ENOUGH * annotated
    yield Finding(_ABOUT, "ok" if good else "warning", text, "" if good else (
        "check extractor.preprocess (color, divisor, mean, std, align) and extractor.postprocess (labels)"
    ))  # fmt: skip
    reader = extractor.postprocess
    for doubt in (reader.plausibility.warning, reader.label_warning(data.category_id)):
        if doubt and not good:  # the detector finds them, so its output is read correctly
            yield Finding(_ABOUT, "warning", doubt)


def cache(data: RoiDataModule) -> Iterator[Finding]:
    """Compare the size of all features with the budget and the free space; nothing is written."""
    if data.cache is None:
        todo = "to compute them once: data/cache=disk, with augmentation data/pool=augmented, too"
        yield Finding("feature cache", "note", "off: features are computed every epoch", todo)
        return
    image_size = data.extractor.preprocess.image_size if data.needs_images else None
    each = data.cache.bytes_per_image(data.extractor.shapes, image_size)
    views = {split: data.views[split].number for split in ("train", "val")}
    wanted = each * sum(number * len(data.dataset(split)) for split, number in views.items())
    room, place = data.cache.room()
    text = (
        f"{each / 1e6:.2f} MB per image, {wanted / GB:.2f} GB in all; the budget is "
        f"{data.cache.budget / GB:.1f} GB, {place} has room for {room / GB:.1f} GB"
    )
    if not views["train"]:
        todo = "to cache them: data/pool=augmented gives each image a fixed number of views"
        yield Finding(
            "feature cache", "note", "augmented training images change every epoch and are not cached", todo
        )
    if wanted > data.cache.budget:
        todo = "raise data.cache.budget_gb, or take a smaller codec or pool: the rest is computed every epoch"
        yield Finding("feature cache", "warning", text, todo)
    elif wanted > room:
        todo = "set data/cache=disk, and paths.cache_dir to a disk with room; or take a smaller codec or pool"
        yield Finding("feature cache", "warning", text, todo)
    else:
        yield Finding("feature cache", "ok", text)


_IMAGES = 8  # for the variance that fewer channels keep
_FEW_CELLS = 7  # a side of the median ROI on the finest tensor, below which its outline is lost


def rehearse(cfg: DictConfig, extractor: OnnxExtractor, with_data: bool, report: Diagnosis) -> None:
    """Build the objects of a training run in the same order; nothing is written.

    Args:
        with_data: the data set is there and whole; one image of it is decoded.
    """
    if extractor.free_batch and not extractor.batched:
        text = "its batch dimension is declared dynamic, but it computes one image per run: no batches"
        report.add(
            Finding(
                "detector's input",
                "note",
                text,
                "export it with batch 1, or with a batch that is dynamic throughout",
            )
        )
    with report.guard("trainer"):
        build.build_trainer(cfg, build.build_callbacks(cfg), build.build_loggers(cfg))
    with report.guard("model"):
        decoder = build.build_decoder(cfg, extractor)
        number = parameter_counts(decoder)["trainable"]
        report.add(Finding("model", "ok", f"{type(decoder).__name__}, {number:,} trainable parameters"))
        build.build_clicks(cfg, decoder)
        build.build_distillation(cfg, decoder, extractor)
        if with_data:
            with report.guard("one image"):
                _decode(cfg, build.make_datamodule(cfg, extractor, decoder), decoder, report)


def _decode(cfg: DictConfig, data: RoiDataModule, decoder: Decoder, report: Diagnosis) -> None:
    """Run one training image through decoder and loss."""
    components = feature_components(data.extractor, data.dataset("train"), _IMAGES)
    if data.extractor.project is not None:
        decoder.projection = data.extractor.projection = projection_of(components, data.extractor.project)
    report.add(_channels(data, components), *cache(data), _cells(data, decoder))
    batch = collate(data.samples("train", [0]))
    data.samples("val", [0])
    module = build.build_module(cfg, decoder, build.build_loss(cfg, decoder, data), None, {})
    batch.inputs = data.extractor.preprocess(batch.images)
    batch.features = data.extractor.run(batch.inputs)
    with torch.no_grad():
        loss, _ = module.loss(module(batch), batch.targets)
    text = f"{batch.samples[0].file_name}, {len(batch.rois)} ROIs: loss {float(loss):.3f} before any training"
    report.add(Finding("one image", "ok", text))
    with report.guard("detector's boxes", "warning"):  # training takes the annotated ones
        report.add(*recall(data))


def _channels(data: RoiDataModule, components: Sequence[Components]) -> Finding:
    """Report how much of the features' variance fewer channels keep, and what a cached image then takes."""
    shapes, codec = data.extractor.tensor_shapes, data.cache.codec if data.cache else Half()
    largest = max(channels for channels, _, _ in shapes)
    sizes = [size for size in (largest >> step for step in range(1, 5)) if size > 0]
    lines = []
    for size in sizes:
        kept = min(each.kept(size) for each in components)
        each_image = sum(codec.length((min(c, size), h, w)) for c, h, w in shapes)
        lines.append(f"{size}: {kept:.1%}, {each_image / 1e6:.2f} MB per image")
    project = data.extractor.project
    text = f"{largest} channels" if project is None else f"projected to {project} of {largest} channels"
    text += f"; variance kept by fewer: {'; '.join(lines)}"
    return Finding("channels of the features", "note", text, "extractor.project=N keeps N of them")


def _cells(data: RoiDataModule, decoder: Decoder) -> Finding:
    """Measure how many cells of the finest tensor the median training ROI covers."""
    annotations, letterbox = data.dataset("train").annotations, data.extractor.preprocess.letterbox
    rois = annotations.all_eligible(data.min_roi_size)
    boxes = annotations.all_pixel_boxes()[rois]
    scales = np.array([letterbox.fit(height, width).scale for height, width in annotations.sizes.tolist()])
    images = np.searchsorted(annotations.first, rois, "right") - 1
    stride = min(decoder.strides)
    width, height = np.median((boxes[:, 2:] - boxes[:, :2]) * scales[images, None], axis=0) / stride
    text = f"the median ROI covers {width:.1f} x {height:.1f} cells of stride {stride}"
    if min(width, height) < _FEW_CELLS:
        todo = "add a tensor with a smaller stride (tensors='*' lists them), or model.detail=16"
        return Finding("ROIs in the tensor", "note", text, todo)
    return Finding("ROIs in the tensor", "ok", text)
