"""What a client must know of an exported file, as `FILE.json` and as a model card `FILE.md` beside it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, ValueInfoProto, helper

import roiseg
from roiseg.common.classes import CLASS_NAMES
from roiseg.common.files import as_utf8, atomic_path, file_digest, write_json
from roiseg.common.outputs import check_replaceable
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.checkpoint import TrainedModel
from roiseg.onnx_export.boxes import BOXES
from roiseg.onnx_export.graph import ROIS
from roiseg.onnx_export.outputs import LABELS, MASKS, ROI_MASKS
from roiseg.onnx_export.verify import OnnxCheck

_DATA = (
    "train_annotations", "train_images", "extra_annotations", "extra_images", "val_annotations", "val_images",
)  # fmt: skip


def check_sidecar(path: Path) -> None:
    """Raise a UserError if a file beside `path` must not be replaced by its sidecar or model card."""
    for beside in _paths(path):
        check_replaceable(beside)


def write_sidecar(path: Path, facts: Mapping[str, Any], written: Path) -> None:
    """Write sidecar and model card of the file `path`, which is still at `written`."""
    sidecar, card = _paths(path)
    file = {"name": as_utf8(path.name), "bytes": written.stat().st_size, "sha256": file_digest(written)}
    write_json(sidecar, {"file": file, **facts})
    with atomic_path(card) as temporary:
        temporary.write_text(model_card({"file": file, **facts}), encoding="utf-8")


def _paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.md")


def preprocess_options(model: TrainedModel) -> dict[str, Any]:
    """Return all options of the preprocessing, with the defaults of those that are not configured."""
    parameters = inspect.signature(Preprocess).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    given = {k: v for k, v in model.config["extractor"]["preprocess"].items() if k[0] != "_"}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in (defaults | given).items()}


def facts_of(
    model: TrainedModel,
    exported: ModelProto,
    metadata: Mapping[str, str],
    check: OnnxCheck,
    extractor: OnnxExtractor | None,
) -> dict[str, Any]:
    """Collect the facts of an exported file, as plain values.

    Args:
        model: it was exported from.
        exported: its graph.
        metadata: of the file.
        check: its comparison with PyTorch.
        extractor: the detector, if its file is there.
    """
    outputs = [value.name for value in exported.graph.output]
    data, options = model.config.get("data") or {}, preprocess_options(model)
    inputs = [_tensor(value, metadata) for value in exported.graph.input]
    batch = any(one["name"] == ROIS and one["shape"][1] == 5 for one in inputs)
    free = any("height" in str(side) for one in inputs for side in one["shape"])
    sizes = f"other multiples of {max(model.decoder.strides)} that the detector takes" if free else ""
    layers = zip(model.layers, model.shapes, strict=True)
    return {
        "inputs": inputs,
        "outputs": [_tensor(value, metadata) for value in exported.graph.output],
        "preprocess": {**options, "steps": _input_steps(options, batch, sizes)},
        "to_masks": _mask_steps(model, outputs),
        **({"roi_masks_cover": model.decoder.frame} if ROI_MASKS in outputs else {}),  # "roi" or "image"
        "classes": list(CLASS_NAMES[: model.decoder.num_classes]),
        "threshold": 0.5,
        "decision": {
            "words": (type(model.decision).__doc__ or "").splitlines()[0], **model.decision.node(),
        },
        "detector": {
            "file": as_utf8(Path(model.detector_path).name), "sha256": model.extractor_sha256,
            "licence": _licence(extractor), "in_this_file": metadata["merged"] == "true",
            "tensors": [{"name": name, "shape": [1, *shape]} for name, shape in layers],
            "boxes": model.config["extractor"].get("postprocess"),
        },
        "checkpoint": {
            "file": as_utf8(model.name), "epoch": model.epoch, "metrics": dict(model.metrics),
        },
        "data": {
            "category_id": model.category_id,
            **{key: as_utf8(Path(str(data[key])).name) for key in _DATA if data.get(key)},
        },
        "difference_from_pytorch": check.summary(),
        "versions": {
            "roiseg": roiseg.__version__, "opset": max(entry.version for entry in exported.opset_import),
            "torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__,
        },
    }  # fmt: skip


def _tensor(value: ValueInfoProto, metadata: Mapping[str, str]) -> dict[str, Any]:
    kind = value.type.tensor_type
    return {
        "name": value.name,
        "type": np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name,
        "shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
        "content": metadata.get(value.name, "tensor of the detector"),
    }


def _licence(extractor: OnnxExtractor | None) -> str:
    """Return what the detector's file says about its licence."""
    entries = [] if extractor is None else load_onnx(extractor.onnx_path).metadata_props
    stated = [entry.value for entry in entries if entry.key.lower() in ("license", "licence")]
    return as_utf8(" ".join(stated)) or "not stated in its file, ask its authors"


def _input_steps(options: Mapping[str, Any], batch: bool, sizes: str) -> list[str]:
    """Return how an image of h x w pixels and boxes become inputs.

    Args:
        options: of the preprocessing.
        batch: the file takes several images.
        sizes: other sizes that it takes, in words; empty if it takes none.
    """
    height, width = options["image_size"]
    images, index = ("B", "column 0 is the index of the image in the batch, then ") if batch else (1, "")
    place = "top = 0; left = 0"
    if options["align"] == "center":
        place = f"top = floor(({height} - new_h) / 2); left = floor(({width} - new_w) / 2)"
    fit = [
        f"r = min({height} / h, {width} / w)",
        "new_h = max(1, floor(h * r + 1e-6)); new_w = max(1, floor(w * r + 1e-6))",
        place,
    ]
    if not options["keep_aspect"]:
        fit = [f"new_h = {height}; new_w = {width}; top = 0; left = 0"]
    if sizes:
        fit.append(
            f"height {height} and width {width} of the input are those in training; it also takes {sizes}"
        )
    return [
        *fit,
        "resize to new_h x new_w: bilinear between the two nearest pixel centres, without averaging (OpenCV "
        "INTER_LINEAR), rounded to whole levels",
        f"place it at row top, column left of {height} x {width} pixels of level {options['pad_value']}",
        f"channels {', '.join(options['color'])}; value = (pixel / {options['divisor']:g} - mean) / std with "
        f"mean {options['mean']}, std {options['std']}; layout [{images}, 3, {height}, {width}], float32",
        f"rois, if they are an input: {index}x1 and x2 are (x * new_w / w + left) / {width}, y1 and y2 are "
        f"(y * new_h / h + top) / {height}",
        "pixel_size, if it is an input: sqrt(w * h / (new_w * new_h)) times the size of an image pixel",
    ]


def _mask_steps(model: TrainedModel, outputs: Sequence[str]) -> dict[str, str]:
    """Return how outputs become masks of the image."""
    (height, width), (rows, columns) = model.image_size, model.decoder.output_size
    u, v = {
        "roi": ("(x + 0.5 - x1) / (x2 - x1)", "(y + 0.5 - y1) / (y2 - y1)"),
        "image": (f"((x + 0.5) * new_w / w + left) / {width}", f"((y + 0.5) * new_h / h + top) / {height}"),
    }[model.decoder.frame]
    crop = "rows top to top + new_h and columns left to left + new_w, resized to h x w"
    inside = "0.5 or more is inside the mask"
    if model.decision.exclusive:
        inside += "; of several masks the one with the largest value keeps the pixel"
    texts = {
        MASKS: f"{crop}, bilinear; {inside}",
        ROI_MASKS: "for pixel (x, y) of the image, if its centre is in the box x1, y1, x2, y2 in image "
        f"pixels: class 1 at column {u} * {columns} - 0.5, row {v} * {rows} - 0.5, both clamped to the grid, "
        f"bilinear; {inside}",
        LABELS: f"{crop}, nearest",
        BOXES: "in image pixels: (x - left) * w / new_w and (y - top) * h / new_h, clipped to 0..w and 0..h",
    }  # fmt: skip
    return {name: text for name, text in texts.items() if name in outputs}


_CARD = """# {file[name]}

Masks of the objects in given boxes (ROIs), from the tensors of a frozen detector. Classes of a ROI's pixels:
{classes}. Decision: {decision[words]}

| | name | type | shape | content |
| --- | --- | --- | --- | --- |
{tensors}

From an image of h x w pixels and boxes to inputs:

{input_steps}

From outputs to masks:

{mask_steps}

## Detector

`{detector[file]}`, SHA-256 `{detector[sha256]}`. The decoder reads {layers}.

Licence of the detector: {detector[licence]}. It applies to {licensed}.

## Training

Checkpoint `{checkpoint[file]}`, epoch {checkpoint[epoch]}; data: {data}.

| validation | |
| --- | --: |
{metrics}

Largest difference of this file from PyTorch: {difference:.1e}. Written by {versions}.
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """Return the facts as a model card in Markdown."""
    detector, check = facts["detector"], facts["difference_from_pytorch"]
    here = "this file, which contains the detector"
    metrics = facts["checkpoint"]["metrics"].items()
    texts = {key: _listed(facts[key]) for key in ("data", "versions")}
    texts["classes"] = ", ".join(facts["classes"])
    return _CARD.format(
        **{**facts, **texts},
        tensors="\n".join(
            f"| {kind} | `{one['name']}` | {one['type']} | {one['shape']} | {one['content']} |"
            for kind in ("input", "output") for one in facts[f"{kind}s"]
        ),
        input_steps="\n".join(f"1. {step}" for step in facts["preprocess"]["steps"]),
        mask_steps="\n".join(f"- `{name}`: {text}" for name, text in facts["to_masks"].items()),
        layers=", ".join(f"`{one['name']}` {one['shape']}" for one in detector["tensors"]),
        licensed=here if detector["in_this_file"] else "the detector, which this file does not contain",
        metrics="\n".join(f"| {name} | {value:.4f} |" for name, value in metrics if name.startswith("val/")),
        difference=max(check["random"], check["real"] or 0.0),
    )  # fmt: skip


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
