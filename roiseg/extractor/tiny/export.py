"""The trained network as one ONNX file with readable tensor names."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from roiseg.common.files import atomic_path
from roiseg.extractor.tiny.network import IMAGE_SIZE, TinyPersonNet

OPSET = 18
TOLERANCE = 1e-4
INTERNAL = ("features_s4", "features_s8")


def export_onnx(network: TinyPersonNet, path: str | Path) -> Path:
    """Write `network` as ONNX, atomically, after comparing ONNX Runtime with PyTorch.

    The file has one input `images` `[1, 3, 256, 256]` and one output `output` `[1, 1024, 6]`;
    `features_s4` and `features_s8` are named tensors inside, there to be cut at.

    Raises:
        RuntimeError: ONNX Runtime differs from PyTorch by more than 1e-4.
    """
    network = copy.deepcopy(network).cpu().eval().fold_batch_norms()
    picture = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    model = _to_onnx(network, picture)
    _compare(model, network, picture)
    _hide_features(model)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))
    return Path(path)


def _to_onnx(network: TinyPersonNet, picture: torch.Tensor) -> onnx.ModelProto:
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter reports on every pass it makes
    try:
        program = torch.onnx.export(
            network, (picture,), dynamo=True, opset_version=OPSET, input_names=["images"],
            output_names=["output", *INTERNAL], verbose=False,
        )  # fmt: skip
    finally:
        logging.disable(silenced)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:  # traces of the Python source: large, and with paths of the machine
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.name = "tiny_person"
    return model


def _compare(model: onnx.ModelProto, network: TinyPersonNet, picture: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["output", *INTERNAL], {"images": picture.numpy()})
    with torch.no_grad():
        wanted = network(picture)
    for name, a, b in zip(("output", *INTERNAL), found, wanted, strict=True):
        difference = float(np.abs(np.asarray(a) - b.numpy()).max())
        if difference > TOLERANCE:
            raise RuntimeError(f"ONNX Runtime and PyTorch differ by {difference:.2g} in {name}")


def _hide_features(model: onnx.ModelProto) -> None:
    """Turn the feature outputs into inner tensors that keep their names and shapes."""
    inner = [output for output in model.graph.output if output.name in INTERNAL]
    for output in inner:
        model.graph.output.remove(output)
    known = {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(output for output in inner if output.name not in known)
