"""Merge the extractor and an exported decoder: image and ROIs -> masks, or image -> boxes, scores, masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto, compose, external_data_helper, helper, inliner, version_converter

from roiseg.common.errors import UserError
from roiseg.extractor.graph import MAX_BYTES, cut_graph, full_size, load_onnx
from roiseg.extractor.postprocess.output import cut_with_head
from roiseg.onnx_export.boxes import RAW, BoxReader, export_boxes
from roiseg.onnx_export.graph import IMAGE, PIXEL_SIZE, ROIS

_PREFIX = "extractor/"


def merge_with_extractor(
    decoder: ModelProto, extractor_path: str, layers: Sequence[str], reader: BoxReader | None = None
) -> ModelProto:
    """Merge the extractor and an exported decoder into one model.

    The image input is the extractor's own (preprocessed, letterboxed), with its name.

    Args:
        decoder: from `export_decoder`, feature inputs in the order of `layers`.
        extractor_path: the detector's ONNX file.
        layers: the tensors the decoder reads.
        reader: how the detector's boxes are read; None: the model keeps the input `rois`.

    Returns:
        A model with output `masks`; with a reader also `boxes` [N, 4] and `scores` [N], see `export_boxes`,
        in place of the input `rois`.

    Raises:
        UserError: the extractor cannot be converted to the decoder's operator set, or both together exceed
            the size of an ONNX file.
    """
    opset = max(entry.version for entry in decoder.opset_import if entry.domain in ("", "ai.onnx"))
    if reader is None:
        part = cut_graph(load_onnx(extractor_path), layers, extractor_path)
    else:
        part, _ = cut_with_head(extractor_path, layers, reader.postprocess, reader.image_size)
    extractor = _convert(_self_contained(part, decoder.ByteSize(), extractor_path), opset, extractor_path)
    extractor = compose.add_prefix(extractor, _PREFIX, rename_inputs=False)
    decoder = compose.add_prefix(decoder, "decoder/", rename_inputs=False, rename_outputs=False)
    extractor.ir_version = decoder.ir_version = min(max(extractor.ir_version, decoder.ir_version), 10)
    given = [value.name for value in decoder.graph.input]
    features = [name for name in given if name not in (ROIS, IMAGE, PIXEL_SIZE)]
    pairs = list(zip([_as_float32(extractor, _PREFIX + name) for name in layers], features, strict=True))
    if IMAGE in given:
        pairs.append((_pass_image_on(extractor), IMAGE))
    if reader is not None:
        boxes = export_boxes(reader, opset)
        boxes.ir_version = extractor.ir_version
        head = _as_float32(extractor, _PREFIX + reader.head)
        extractor = compose.merge_models(extractor, boxes, io_map=[(head, RAW)])
        pairs.append((ROIS, ROIS))
    return compose.merge_models(extractor, decoder, io_map=pairs)


def _self_contained(extractor: ModelProto, decoder_size: int, path: str) -> ModelProto:
    """Load the extractor's external weights and inline its local functions."""
    size = full_size(extractor) + decoder_size
    if size > MAX_BYTES:
        raise UserError(
            f"{path} and the decoder together are {size / 1e9:.1f} GB, more than one ONNX file can hold "
            f"({MAX_BYTES / 1e9:.1f} GB): export the decoder alone (merged=false)"
        )
    external_data_helper.load_external_data_for_model(extractor, str(Path(path).parent))
    return inliner.inline_local_functions(extractor) if extractor.functions else extractor


def _convert(extractor: ModelProto, opset: int, path: str) -> ModelProto:
    try:
        return version_converter.convert_version(extractor, opset)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be converted to ONNX opset {opset} ({reason}): "
            "export the decoder alone (merged=false)"
        ) from None


def _pass_image_on(extractor: ModelProto) -> str:
    """Add the image input as a float32 output and return its name."""
    graph = extractor.graph
    image, name = graph.input[0], f"{_PREFIX}image"
    graph.node.append(helper.make_node("Cast", [image.name], [name], to=TensorProto.FLOAT))
    output = graph.output.add()
    output.CopyFrom(image)
    output.name = name
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    return name


def _as_float32(extractor: ModelProto, name: str) -> str:
    """Cast an output to float32 if needed and return its name."""
    graph = extractor.graph
    output = next(value for value in graph.output if value.name == name)
    if output.type.tensor_type.elem_type == TensorProto.FLOAT:
        return name
    cast = f"{name}/float32"
    graph.node.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
    output.name = cast
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    return cast
