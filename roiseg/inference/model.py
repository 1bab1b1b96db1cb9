"""Whatever makes masks of ROIs, behind one call: a checkpoint's decoder or an exported ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.decoders.base import Context, Decoder
from roiseg.decoders.layers.chunked import decode_in_chunks
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.checkpoint import TrainedModel, load_model
from roiseg.inference.onnx_file import OnnxFile, finite
from roiseg.inference.tta import average_views

_AT_ONCE = 128  # ROIs decoded at a time, as in training


@dataclass(frozen=True)
class RoiMasks:
    """What a model says about the ROIs of a batch.

    Attributes:
        target: [R, h, w] probability of the target, on the CPU.
        non_target: [R, h, w] probability of other persons; None where the model does not tell.
        windows: [R, 4] boxes in input pixels that both are stretched over, on the CPU.
    """

    target: Tensor
    non_target: Tensor | None
    windows: Tensor


class MaskModel(Protocol):
    """A trained model that is ready to run.

    Attributes:
        path: its file.
        category_id: COCO's number of what it was trained on.
        image_size: (H, W) of the detector's input.
        preprocess: from image to the detector's input tensor.
        prompts: which of `prior` and `points` it reads.
    """

    path: Path
    category_id: int
    image_size: tuple[int, int]
    preprocess: Preprocess
    prompts: tuple[str, ...]

    @property
    def extractor(self) -> OnnxExtractor | None:
        """The detector it was trained on; None for an ONNX file that holds it."""

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """The batch with the detector's input tensor and, unless the file holds the detector, features."""

    def masks(self, batch: RoiBatch, points: Tensor | None = None) -> RoiMasks:
        """Masks of the ROIs of a batch that `prepare` has been called on.

        Args:
            batch: its mirror image and close-ups, where it has them, are averaged over.
            points: [R, P, 3] clicks, see `roiseg.decoders.base.Context`.
        """


class TorchModel:
    """The decoder of a checkpoint.

    Args:
        model: from `load_model`.
        extractor: the detector it was trained on.
        device: where the decoder runs; None: the GPU if there is one.
    """

    def __init__(
        self, model: TrainedModel, extractor: OnnxExtractor, device: torch.device | str | None = None
    ) -> None:
        self.path = model.path
        self.category_id = model.category_id
        self.extractor = extractor
        self.image_size = model.image_size
        self.preprocess = extractor.preprocess
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.decoder: Decoder = model.decoder.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.prompts = self.decoder.prompts

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """Run the detector; see `MaskModel`."""
        return with_features(batch.to(self.device), self.extractor)

    @torch.inference_mode()
    def masks(self, batch: RoiBatch, points: Tensor | None = None) -> RoiMasks:
        """Masks on the decoder's own grid; see `MaskModel`."""
        batch = batch.to(self.device)
        size = (batch.measured.shape[1], batch.measured.shape[2])
        prompts = None if points is None else points.to(self.device)
        seen = average_views(self.logits(batch, prompts), batch, self.decoder, self.logits, size)
        shares = seen.logits.float().softmax(dim=1).cpu()
        others = shares[:, NON_TARGET] if shares.shape[1] > NON_TARGET else None
        return RoiMasks(shares[:, TARGET], others, seen.windows.cpu())

    def logits(self, batch: RoiBatch, points: Tensor | None = None) -> Tensor:
        """[R, K, h, w] of a batch on this device, one look; decoded in parts, so that memory is bounded."""
        context = Context(image=batch.inputs, pixel_size=batch.pixel_sizes, points=points)
        logits = decode_in_chunks(self.decoder, batch.features, batch.rois, context, _AT_ONCE).logits
        return finite(logits, self.path)


class OnnxModel:
    """An exported file, the decoder alone or merged with its extractor.

    Args:
        file: the exported file.
        extractor: the detector, for a file that does not hold it.
    """

    prompts: tuple[str, ...] = ()

    def __init__(self, file: OnnxFile, extractor: OnnxExtractor | None) -> None:
        self.file = file
        self.path = file.path
        self.category_id = file.category_id
        self.extractor = extractor
        self.image_size = file.image_size
        self.preprocess = file.preprocess

    def prepare(self, batch: RoiBatch) -> RoiBatch:
        """Run the detector, unless the file holds it; see `MaskModel`."""
        if self.extractor is not None:
            return with_features(batch, self.extractor)
        return replace(batch, inputs=self.preprocess(batch.images))

    def masks(self, batch: RoiBatch, points: Tensor | None = None) -> RoiMasks:
        """Masks over the whole input, image by image; see `MaskModel`.

        Raises:
            UserError: the batch wants several looks, which need the decoder's own grid, or clicks.
        """
        if batch.mirrored is not None or batch.close_ups is not None:
            raise UserError(f"{self.path} looks once: mirror images and close-ups need a checkpoint")
        if points is not None:
            raise UserError(f"{self.path} takes no points: use a checkpoint of model=sam")
        height, width = self.image_size
        found = [self._image(batch, index) for index in range(len(batch.samples))]
        target = torch.cat(found) if found else torch.zeros(0, height, width)
        window = torch.tensor([0.0, 0.0, width, height]).expand(len(target), 4)
        return RoiMasks(target, None, window)

    def _image(self, batch: RoiBatch, index: int) -> Tensor:
        height, width = self.image_size
        rois = batch.rois[batch.rois[:, 0] == index, 1:].cpu() / torch.tensor([width, height, width, height])
        assert batch.inputs is not None
        one = slice(index, index + 1)
        features = [feature[one] for feature in batch.features]
        return self.file.run(batch.inputs[one], features, rois, batch.pixel_sizes[one])


def open_mask_model(
    ckpt: str | Path | None = None,
    onnx: str | Path | None = None,
    onnx_path: str | None = None,
    device: torch.device | str | None = None,
    detector: Any = None,
) -> MaskModel:
    """Open a checkpoint or an exported ONNX file.

    Args:
        ckpt: a checkpoint ...
        onnx: ... or an exported file; one of them.
        onnx_path: where the detector lies now; None: where it lay in training.
        device: of a checkpoint's decoder.
        detector: an adapter that reads boxes from the detector's outputs, as a configuration node; None:
            the one the model was trained with, if any.

    Raises:
        UserError: none or both given, or a file that cannot be used.
    """
    if (ckpt is None) == (onnx is None):
        raise UserError("give either ckpt=... (a checkpoint) or onnx=... (an exported file)")
    if ckpt is not None:
        model = load_model(ckpt)
        return TorchModel(model, model.extractor(onnx_path, detector), device)
    assert onnx is not None
    file = OnnxFile(onnx)
    return OnnxModel(file, file.extractor(onnx_path, detector))


def with_features(batch: RoiBatch, extractor: OnnxExtractor) -> RoiBatch:
    """The batch with the detector's input tensor and features, on the device of the batch."""
    inputs = extractor.preprocess(batch.images)
    return replace(batch, inputs=inputs, features=extractor.run(inputs))
