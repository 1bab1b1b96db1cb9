"""The frozen detector: ONNX Runtime on a graph that is cut at the feature tensors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import DataSource
from roiseg.extractor.graph import cut_graph, load_onnx, model_digest
from roiseg.extractor.postprocess.base import Detections, Postprocessor
from roiseg.extractor.postprocess.output import cut_with_head
from roiseg.extractor.preprocess import Preprocess
from roiseg.extractor.projection import Projection
from roiseg.extractor.session import TORCH_TYPES, bind, open_session


class OnnxExtractor:
    """Computes intermediate tensors of a frozen ONNX detector.

    The graph is cut at the named tensors. Inputs and outputs are bound to torch memory, so features are not
    copied, and stay on the GPU if they are computed there. Files that only support a batch of 1 are run
    image by image.

    Args:
        onnx_path: the detector.
        layers: names of one or more tensors [B, C, h, w].
        preprocess: converts images to the input tensor.
        providers: ONNX Runtime execution providers in order of preference; None: CUDA if torch and the
            runtime support it, else the CPU.
        threads: CPU threads of the runtime; 0: the runtime chooses.
        source: creates the file if it is missing and `onnx_path` is one of its files.
        postprocess: reads the detector's boxes in `run_with_detections`; only there the head is computed.
        project: give every layer at most this number of channels, by `projection`; None: all of them.

    Attributes:
        tensor_shapes: (C, H, W) of each layer in the detector.
        shapes, channels: (C, H, W) and C of the features, after the projection.
        projection: to be set before features are computed, if `project` is set.
        strides: input pixels per cell of each layer.
        free_batch: the file declares a free batch size.
        digest: SHA-256 of the file and its external weights.
        batched: several images in one run give the same features as each alone.

    Raises:
        UserError: missing or broken file, unknown tensor, or unsuitable input or feature shape.
    """

    def __init__(
        self,
        onnx_path: str,
        layers: Sequence[str] | str,
        preprocess: Preprocess,
        providers: Sequence[str] | None = None,
        threads: NonNegativeInt = 0,
        source: DataSource | None = None,
        postprocess: Postprocessor | None = None,
        project: PositiveInt | None = None,
    ) -> None:
        if source is not None and source.makes(onnx_path):
            source.ensure()
        names = [layers] if isinstance(layers, (str, int)) else layers
        self.layers = [str(name) for name in names]
        if len(set(self.layers)) < len(self.layers):
            raise UserError(f"extractor.layers names a tensor twice: {', '.join(self.layers)}")
        self.onnx_path = str(onnx_path)
        self.preprocess = preprocess
        self.postprocess = postprocess
        self._runtime = (providers, threads)
        whole = load_onnx(onnx_path)
        self.digest = model_digest(self.onnx_path)
        model = cut_graph(whole, self.layers, self.onnx_path)
        if postprocess is not None and postprocess.outputs:  # report a wrong name immediately
            cut_graph(whole, postprocess.outputs, self.onnx_path, "extractor.postprocess.output")
        self.session = open_session(model.SerializeToString(), self.onnx_path, *self._runtime)
        self._input = self._check_input()
        self._dtypes = [TORCH_TYPES.get(output.type) for output in self._outputs()]
        blank = self._probe()
        self.tensor_shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in blank]
        self.project = project
        self.projection: Projection | None = None
        self.strides = tuple(preprocess.image_size[0] // shape[1] for shape in self.tensor_shapes)
        self.free_batch = not isinstance(self._input.shape[0], int)
        self.batched = self.free_batch and self._supports_batches(blank)

    def resized(self, image_size: tuple[int, int]) -> OnnxExtractor:
        """Open the file for another size (H, W) of the input.

        Raises:
            UserError: it takes no other size.
        """
        return OnnxExtractor(self.onnx_path, self.layers, self.preprocess.resized(image_size), *self._runtime)

    @property
    def identity(self) -> str:
        """Return everything that features depend on: file, layers, preprocessing and projection."""
        projection = () if self.projection is None else (self.projection.digest,)
        return repr((self.digest, self.layers, vars(self.preprocess), *projection))

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Return (C, H, W) of each layer's features."""
        size = self.project if self.projection is None else self.projection.size
        return [(min(c, size or c), height, width) for c, height, width in self.tensor_shapes]

    @property
    def channels(self) -> tuple[int, ...]:
        """Return C of each layer's features."""
        return tuple(shape[0] for shape in self.shapes)

    @property
    def input_name(self) -> str:
        """Name of the image input."""
        return self._input.name

    @property
    def providers(self) -> list[str]:
        """Return the execution providers in use."""
        return self.session.get_providers()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract the features of a batch.

        Args:
            images: uint8 RGB [B, H, W, 3], letterboxed to the input size.

        Returns:
            One float32 [B, C_l, H_l, W_l] per layer, on the device of `images`.
        """
        return self.run(self.preprocess(images))

    def run(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Extract the features of preprocessed images [B, 3, H, W]; see `__call__`."""
        return self._features(self.tensors(tensor), tensor.device)

    def tensors(self, tensor: Tensor) -> list[Tensor]:
        """Compute the layers of images [B, 3, H, W] with all channels, in the detector's precision."""
        inputs, outputs = self._memory(tensor)
        step = max(1, len(inputs)) if self.batched else 1
        for start in range(0, len(inputs), step):
            part = slice(start, start + step)
            self.session.run_with_iobinding(self._bind(self.session, inputs, outputs, part))
        return outputs

    def run_with_detections(self, tensor: Tensor) -> tuple[tuple[Tensor, ...], list[Detections]]:
        """Compute features and boxes of preprocessed images [B, 3, H, W], in one run per image.

        Returns:
            The features, see `run`, and the detections of each image in input pixels.

        Raises:
            UserError: `postprocess` is None or cannot read the output.
        """
        session, head = self._whole
        assert self.postprocess is not None
        inputs, outputs = self._memory(tensor)
        detections = []
        for index in range(len(inputs)):
            binding = self._bind(session, inputs, outputs, slice(index, index + 1))
            binding.bind_output(head)  # allocated by the runtime
            session.run_with_iobinding(binding)
            detections.append(self.postprocess(binding.get_outputs()[-1].numpy(), self.preprocess.image_size))
        return self._features(outputs, tensor.device), detections

    def _features(self, outputs: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
        """Project the outputs where they were computed; return them on a device."""
        assert self.project is None or self.projection is not None, "set projection first"
        if self.projection is not None:
            outputs = self.projection(outputs)
        return tuple(output.to(device, torch.float32) for output in outputs)

    def seconds_per_image(self) -> float:
        """Time the detector on a blank image, up to its features."""
        blank = torch.zeros((1, 3, *self.preprocess.image_size))
        started = time.perf_counter()
        self.tensors(blank)
        return time.perf_counter() - started

    def forget_head(self) -> None:
        """Close the session of `run_with_detections`; it is opened again when needed."""
        vars(self).pop("_whole", None)

    def head(self) -> tuple[str, tuple[int, ...]]:
        """Return the tensor that `postprocess` reads, and its shape for one (blank) image.

        Raises:
            UserError: see `run_with_detections`.
        """
        session, name = self._whole
        height, width = self.preprocess.image_size
        blank = torch.zeros((1, 3, height, width), dtype=TORCH_TYPES[self._input.type])
        (raw,) = session.run([name], {self.input_name: blank.numpy()})
        return name, tuple(raw.shape)

    @cached_property
    def _whole(self) -> tuple[ort.InferenceSession, str]:
        """Return a session that also computes the head, and the head's name; opened when first needed.

        It is separate from the session of `run` because the runtime computes the whole graph.
        """
        if self.postprocess is None:
            raise UserError(
                "extractor.postprocess is not set, so the detector's boxes cannot be read: set "
                "postprocess=yolox, yolo, rows, ... (the choices in conf/postprocess), or give boxes"
            )
        size = self.preprocess.image_size
        model, head = cut_with_head(self.onnx_path, self.layers, self.postprocess, size)
        return open_session(model.SerializeToString(), self.onnx_path, *self._runtime), head

    def _memory(self, tensor: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the images as the runtime reads them, and memory for their features."""
        inputs = tensor.to(TORCH_TYPES[self._input.type]).contiguous()
        if "CUDAExecutionProvider" not in self.providers:
            inputs = inputs.cpu()
        outputs = [
            torch.empty((len(inputs), *shape), dtype=dtype, device=inputs.device)
            for shape, dtype in zip(self.tensor_shapes, self._dtypes, strict=True)
        ]
        if inputs.device.type == "cuda":
            torch.cuda.current_stream(inputs.device).synchronize()  # the runtime uses another stream
        return inputs, outputs

    def _bind(
        self, session: ort.InferenceSession, inputs: Tensor, outputs: Sequence[Tensor], part: slice
    ) -> ort.IOBinding:
        features = {layer: output[part] for layer, output in zip(self.layers, outputs, strict=True)}
        return bind(session, (self.input_name, inputs[part]), features)

    def _outputs(self) -> list[Any]:
        by_name = {output.name: output for output in self.session.get_outputs()}
        return [by_name[layer] for layer in self.layers]

    def _check_input(self) -> Any:
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in TORCH_TYPES:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise UserError(f"extractor {self.onnx_path} needs one float image input, it has: {found}")
        shape = inputs[0].shape
        height, width = self.preprocess.image_size
        if len(shape) != 4 or any(
            isinstance(have, int) and have != want
            for have, want in zip(shape[1:], (3, height, width), strict=True)
        ):
            raise UserError(
                f"extractor.preprocess.image_size [{height}, {width}] does not fit the input "
                f"{inputs[0].name} {shape} of {self.onnx_path}"
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise UserError(
                f"extractor {self.onnx_path} has a fixed batch of {shape[0]}: "
                "export it with batch 1 or a dynamic batch"
            )
        return inputs[0]

    def _probe(self) -> list[NDArray[np.generic]]:
        """Compute the features of a blank image, which have the true shapes."""
        height, width = self.preprocess.image_size
        blank = torch.zeros((1, 3, height, width), dtype=TORCH_TYPES[self._input.type])
        try:
            features = self.session.run(self.layers, {self._input.name: blank.numpy()})
        except Exception as error:  # the runtime raises plain exceptions
            raise UserError(
                f"extractor {self.onnx_path} does not run: {' '.join(str(error).split())[:300]}"
            ) from None
        for layer, feature, dtype in zip(self.layers, features, self._dtypes, strict=True):
            if dtype is None or not _is_map(feature.shape, (height, width)):
                raise UserError(
                    f"extractor.layers: tensor `{layer}` is {feature.dtype} {list(feature.shape)}; a decoder "
                    f"needs float [1, C, h, w] whose cells divide the input {height}x{width} evenly"
                )
            if not np.isfinite(feature).all():
                raise UserError(
                    f"extractor {self.onnx_path}: tensor `{layer}` has nan or infinite values on an empty "
                    "image, its weights are damaged: export or copy it again"
                )
        return features

    def _supports_batches(self, blank: list[NDArray[np.generic]]) -> bool:
        """Return whether two images in a batch give the same features; inner reshapes may assume one."""
        pair = torch.zeros((2, 3, *self.preprocess.image_size), dtype=TORCH_TYPES[self._input.type])
        pair[0].uniform_(generator=torch.Generator().manual_seed(0))
        try:
            together = self.session.run(self.layers, {self._input.name: pair.numpy()})
        except Exception:  # the runtime raises plain exceptions
            return False
        return all(map(_same_features, together, blank))


def _same_features(pair: NDArray[np.generic], alone: NDArray[np.generic]) -> bool:
    """Return whether the second of two images has the features of `alone`, up to rounding."""
    if pair.shape != (2, *alone.shape[1:]):
        return False
    difference = np.abs(pair[1].astype(np.float32) - alone[0].astype(np.float32)).max()
    return bool(difference <= 0.01 * np.abs(pair).max())


def _is_map(shape: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Return whether a shape is a feature map [1, C, h, w] whose cells are square and tile the input."""
    if len(shape) != 4 or min(shape) < 1:
        return False
    strides = [size / cells for size, cells in zip(image_size, shape[2:], strict=True)]
    return strides[0].is_integer() and strides[0] == strides[1]
