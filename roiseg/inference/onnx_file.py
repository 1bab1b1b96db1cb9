"""An exported ONNX file, opened to be run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import require_file, utf8_path
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.extractor.session import default_providers
from roiseg.inference.checkpoint import check_same_file, checked_category
from roiseg.inference.rebuild import rebuild
from roiseg.onnx_export.graph import IMAGE, MASKS, PIXEL_SIZE, ROIS, seal

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxFile:
    """A decoder, alone or merged with its extractor, written by `python -m roiseg.export`.

    Args:
        path: the file.

    Attributes:
        metadata: what the export wrote beside the graph.
        merged: the extractor is inside: the file reads the image.
        finds_boxes: it also finds the boxes itself, and takes none.
        image_size: (H, W) of the detector's input and of the masks.
        preprocess: from image to the detector's input tensor.
        postprocess: configuration of the adapter that reads the detector's own boxes, if the export knew one.
        category_id: COCO's number of what it was trained on.

    Raises:
        UserError: missing, not to be opened, not written by roiseg, or its metadata disagrees with its graph.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path, "exported ONNX", "give a file written by `python -m roiseg.export`")
        try:
            with utf8_path(self.path) as name:
                self.session = ort.InferenceSession(name, providers=default_providers())
        except Exception as error:  # the runtime raises bare exceptions of its own
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.path} cannot be opened by onnxruntime ({reason}): export it anew"
            ) from None
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self._types = {given.name: _TYPES.get(given.type) for given in self.session.get_inputs()}
        if self.metadata.get("producer") != "roiseg":
            raise UserError(
                f"{self.path} is no decoder written by `python -m roiseg.export`: give one that is"
            )
        outputs = {given.name: given.shape for given in self.session.get_outputs()}
        if self.metadata.get("seal") != seal(self.metadata, [*self._types, *outputs]):
            raise self._differs("was changed since, or is of another version of roiseg")
        self.finds_boxes = ROIS not in self._types
        try:
            self.merged: bool = self._read("merged", bool)
            self.layers: list[str] = self._read("layers", list)
            height, width = self._read("image_size", list)
            self.image_size = (int(height), int(width))
            self.preprocess = Preprocess(**self._read("preprocess", dict))
            self.postprocess: dict[str, Any] | None = self._read("postprocess", (dict, NoneType))
            self.category_id = checked_category(json.loads(self.metadata.get("category_id", "1")), self.path)
            self._sha256 = self.metadata["extractor_sha256"]
            contradiction = self._contradiction(outputs)
        except (UserError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise self._differs(f"cannot be used ({str(error)[:200]})") from None
        if contradiction:
            raise self._differs(contradiction)

    def _contradiction(self, outputs: dict[str, list[Any]]) -> str | None:
        """What the metadata says that is not so of this graph."""
        size = list(self.image_size)
        if not all(isinstance(name, str) for name in self.layers):
            return f"names layers {self.layers}"
        shapes = {given.name: given.shape for given in self.session.get_inputs()}
        pictures = {self._read("picture_input", str)} if self.merged else {IMAGE} & shapes.keys()
        if not self.merged and set(self.layers) != shapes.keys() - {ROIS, IMAGE, PIXEL_SIZE}:
            return f"names layers {self.layers}, the graph reads {sorted(shapes)}"
        if not pictures <= shapes.keys():
            return f"names the input {pictures.pop()}, the graph reads {sorted(shapes)}"
        if list(self.preprocess.image_size) != size:
            return f"says image_size {size} and preprocess {list(self.preprocess.image_size)}"
        for name, shape in {MASKS: outputs.get(MASKS), **{name: shapes[name] for name in pictures}}.items():
            sides = zip(shape[-2:] if shape else (), size, strict=True)
            if any(isinstance(side, int) and side != said for side, said in sides):
                return f"says image_size {size}, `{name}` of the graph is {shape}"
        return None

    def _differs(self, how: str) -> UserError:
        return UserError(f"{self.path}: its metadata {how}: export it anew")

    def extractor(
        self, onnx_path: str | None = None, postprocess: dict[str, Any] | None = None
    ) -> OnnxExtractor | None:
        """Open the detector whose features the decoder reads; None if it is inside and no other is given.

        Args:
            onnx_path: where the detector lies.
            postprocess: configuration of the adapter that reads its boxes; by default the one exported.

        Raises:
            UserError: it is needed and not given, cannot be opened, or is another file than trained on.
        """
        if self.finds_boxes:
            raise UserError(f"{self.path} takes no boxes, it finds its own: export it without boxes=true")
        if onnx_path is None:
            if self.merged:
                return None
            raise UserError(
                f"{self.path} holds the decoder alone: give the detector it was trained on as onnx_path"
            )
        adapter = postprocess if postprocess is not None else self.postprocess
        try:
            reader = rebuild(adapter)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        extractor = OnnxExtractor(onnx_path, self.layers, self.preprocess, postprocess=reader)
        check_same_file(extractor, self._sha256, self.path)
        return extractor

    def run(self, inputs: Tensor, features: Sequence[Tensor], rois: Tensor, pixel_size: Tensor) -> Tensor:
        """Masks of the ROIs of one image.

        Args:
            inputs: [1, 3, H, W] the detector's input tensor.
            features: [1, C_l, H_l, W_l] a layer; not read by a merged file.
            rois: [N, 4] normalised x1, y1, x2, y2.
            pixel_size: [1] size of an input pixel, see `RoiSample`.

        Returns:
            [N, H, W] probability of the target, on the CPU.
        """
        known = {
            ROIS: rois,
            IMAGE: inputs,
            PIXEL_SIZE: pixel_size,
            **dict(zip(self.layers, features, strict=False)),
        }
        if self.merged:  # its image has the name the detector gave it
            known |= {name: inputs for name in self._types if name not in known}
        given = {name: known[name].cpu().numpy().astype(dtype) for name, dtype in self._types.items()}
        (masks,) = self.session.run([MASKS], given)
        return finite(torch.from_numpy(masks.astype(np.float32)), self.path)

    def _read(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """An entry of the metadata; raises KeyError, TypeError or ValueError where there is none such."""
        value = json.loads(self.metadata[key])
        if not isinstance(value, kind):
            raise TypeError(f"`{key}` is {value!r}")
        return value


def finite(values: Tensor, path: Path) -> Tensor:
    """What a model gave, unchanged: nan and infinity would pass for masks without a pixel.

    Args:
        values: its masks, or logits.
        path: the model, for the message.

    Raises:
        UserError: a value is nan or infinite.
    """
    if not bool(values.isfinite().all()):
        raise UserError(
            f"{path} gives probabilities that are nan or infinite: use another checkpoint or export, "
            "or precision=32-true, and look for damaged detector weights"
        )
    return values
