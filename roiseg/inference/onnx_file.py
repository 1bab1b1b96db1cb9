"""Open and run an exported ONNX file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.common.files import require_file, utf8_path
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.extractor.preprocess import Preprocess
from roiseg.extractor.session import default_providers
from roiseg.inference.checkpoint import check_same_file, checked_category
from roiseg.inference.decision import Decision
from roiseg.inference.rebuild import rebuild_as
from roiseg.onnx_export.boxes import BOXES, SCORES
from roiseg.onnx_export.graph import IMAGE, PIXEL_SIZE, ROIS, seal
from roiseg.onnx_export.outputs import LABELS, MASK_SCORES, MASKS
from roiseg.onnx_export.verify import takes_batch

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxFile:
    """A decoder, alone or merged with its extractor, written by `python -m roiseg.export`.

    Args:
        path: the file.

    Attributes:
        metadata: written by the export.
        merged: the file contains the extractor and reads the image.
        finds_boxes: the file finds the boxes itself.
        batch: the file takes several images, and `rois` with the index of their image.
        free_size: the file takes inputs of other sizes.
        reads_pixel_size: the file has the input `pixel_size`.
        outputs: names of its outputs.
        dilate: pixels by which its masks are dilated.
        decision: in the graph; makes the masks.
        image_size: (H, W) of the detector's input and of the masks.
        preprocess: from image to the detector's input tensor.
        postprocess: configuration that reads the detector's boxes, if known.
        category_id: the COCO category that it was trained on.

    Raises:
        UserError: missing or unreadable, not written by roiseg, or metadata and graph disagree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path, "exported ONNX", "give a file written by `python -m roiseg.export`")
        try:
            with utf8_path(self.path) as name:
                self.session = ort.InferenceSession(name, providers=default_providers())
        except Exception as error:  # the runtime raises bare exceptions of its own
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.path} cannot be opened by onnxruntime ({reason}): export it again"
            ) from None
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self._types = {given.name: _TYPES.get(given.type) for given in self.session.get_inputs()}
        if self.metadata.get("producer") != "roiseg":
            raise UserError(f"{self.path} was not written by `python -m roiseg.export`: give a file that was")
        outputs = {given.name: given.shape for given in self.session.get_outputs()}
        if self.metadata.get("seal") != seal(self.metadata, [*self._types, *outputs]):
            raise self._differs("was changed, or was written by another version of roiseg")
        self.finds_boxes = ROIS not in self._types
        self.batch = takes_batch(self.session)
        self.free_size = any("height" in str(side) for i in self.session.get_inputs() for side in i.shape)
        self.reads_pixel_size = PIXEL_SIZE in self._types
        self.outputs = list(outputs)
        try:
            self.merged: bool = self._read("merged", bool)
            self.layers: list[str] = self._read("layers", list)
            height, width = self._read("image_size", list)
            self.image_size = (int(height), int(width))
            self.preprocess = rebuild_as(
                Preprocess,
                {**self._read("preprocess", dict), "_target_": "roiseg.extractor.preprocess.Preprocess"},
            )
            self.postprocess: dict[str, Any] | None = self._read("postprocess", (dict, NoneType))
            self.category_id = checked_category(json.loads(self.metadata.get("category_id", "1")), self.path)
            self.dilate = int(json.loads(self.metadata.get("dilate", "0")))
            self.decision: Decision = rebuild_as(Decision, self._read("decision", dict))  # type: ignore[type-abstract]
            self._sha256 = self.metadata["extractor_sha256"]
            contradiction = self._contradiction(outputs)
        except (UserError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise self._differs(f"cannot be used ({str(error)[:200]})") from None
        if contradiction:
            raise self._differs(contradiction)

    def _contradiction(self, outputs: dict[str, list[Any]]) -> str | None:
        """Return a contradiction between metadata and graph, if there is one."""
        size = list(self.image_size)
        if not all(isinstance(name, str) for name in self.layers):
            return f"names layers {self.layers}"
        shapes = {given.name: given.shape for given in self.session.get_inputs()}
        images = {self._read("image_input", str)} if self.merged else {IMAGE} & shapes.keys()
        if not self.merged and set(self.layers) != shapes.keys() - {ROIS, IMAGE, PIXEL_SIZE}:
            return f"names layers {self.layers}, the graph reads {sorted(shapes)}"
        if not images <= shapes.keys():
            return f"names the input {images.pop()}, the graph reads {sorted(shapes)}"
        if list(self.preprocess.image_size) != size:
            return f"says image_size {size} and preprocess {list(self.preprocess.image_size)}"
        whole = [*((name, outputs[name]) for name in {MASKS, LABELS} & outputs.keys()),
                 *((name, shapes[name]) for name in images)]  # fmt: skip
        for name, shape in whole:
            sides = zip(shape[-2:], size, strict=True)
            if any(isinstance(side, int) and side != stated for side, stated in sides):
                return f"says image_size {size}, `{name}` of the graph is {shape}"
        return None

    def require_outputs(self, *names: str) -> None:
        """Raise a UserError unless the file has these outputs."""
        if missing := [name for name in names if name not in self.outputs]:
            raise UserError(
                f"{self.path} does not give {', '.join(missing)}: export it with outputs=[{','.join(names)}]"
            )

    def _differs(self, how: str) -> UserError:
        return UserError(f"{self.path}: its metadata {how}: export it again")

    def extractor(
        self, onnx_path: str | None = None, postprocess: dict[str, Any] | None = None
    ) -> OnnxExtractor | None:
        """Open the detector; None if the file contains it and no path is given.

        Args:
            onnx_path: path of the detector.
            postprocess: configuration that reads its boxes; None: the exported one.

        Raises:
            UserError: the detector is missing, cannot be opened, or is not the one in training.
        """
        if onnx_path is None:
            if self.merged:
                return None
            raise UserError(
                f"{self.path} contains only the decoder: give the detector in training as onnx_path"
            )
        reader = self.box_reader(postprocess)
        extractor = OnnxExtractor(onnx_path, self.layers, self.preprocess, postprocess=reader)
        check_same_file(extractor, self._sha256, self.path)
        return extractor

    def box_reader(self, postprocess: dict[str, Any] | None = None) -> Postprocessor | None:
        """Build what reads the detector's boxes.

        Args:
            postprocess: its configuration; None: the exported one, if any.
        """
        node = postprocess if postprocess is not None else self.postprocess
        try:
            return None if node is None else rebuild_as(Postprocessor, node)  # type: ignore[type-abstract]
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def run(
        self, inputs: Tensor, features: Sequence[Tensor], rois: Tensor, pixel_size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the masks of the ROIs of one image, and their scores.

        Args:
            inputs: [1, 3, H, W] the detector's input tensor.
            features: [1, C_l, H_l, W_l] per layer; not used by a merged file.
            rois: [N, 4] normalized x1, y1, x2, y2.
            pixel_size: [1] size of an input pixel, see `RoiSample`.

        Returns:
            On the CPU: masks [N, H, W], 0.5 or more inside; [N] their predicted IoU, 0 to 1.
        """
        if self.batch:
            rois = F.pad(rois, (1, 0))
        known = {ROIS: rois, PIXEL_SIZE: pixel_size, **dict(zip(self.layers, features, strict=False))}
        masks, scores = self._outputs([MASKS, MASK_SCORES], inputs, known)
        return masks, scores

    def detect(self, inputs: Tensor, pixel_size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the boxes and masks of one image, with a file that finds the boxes itself.

        Args:
            inputs, pixel_size: see `run`.

        Returns:
            On the CPU: boxes [N, 4] in input pixels, by descending score; their scores [N]; masks [N, H, W]
            and their predicted IoU [N], see `run`.
        """
        boxes, scores, masks, mask_scores = self._outputs(
            [BOXES, SCORES, MASKS, MASK_SCORES], inputs, {PIXEL_SIZE: pixel_size}
        )
        return boxes, scores, masks, mask_scores

    def _outputs(self, names: Sequence[str], inputs: Tensor, known: dict[str, Tensor]) -> Iterator[Tensor]:
        known |= {name: inputs for name in self._types if name not in known}  # of any name in a merged file
        given = {name: known[name].cpu().numpy().astype(dtype) for name, dtype in self._types.items()}
        for output in self.session.run(names, given):
            yield finite(torch.from_numpy(output.astype(np.float32)), self.path)

    def _read(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Read an entry of the metadata; raise KeyError, TypeError or ValueError if invalid."""
        value = json.loads(self.metadata[key])
        if not isinstance(value, kind):
            raise TypeError(f"`{key}` is {value!r}")
        return value


def finite(values: Tensor, path: Path) -> Tensor:
    """Return values unchanged if they are finite: nan and infinity would look like empty masks.

    Args:
        values: masks or logits.
        path: the model, for the message.

    Raises:
        UserError: a value is nan or infinite.
    """
    if not bool(values.isfinite().all()):
        raise UserError(
            f"{path} gives probabilities that are nan or infinite: use another checkpoint or export, "
            "or precision=32-true, and check the detector's weights"
        )
    return values
