"""`python -m tools.tiny_detector.training FILE`: train the embedded detector, export it as one ONNX file.

The defaults are the values that ext_extractor/tiny_person_256.onnx was trained with.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.common.console import console, progress_bar, track
from roiseg.common.files import atomic_path
from roiseg.common.outputs import check_output
from roiseg.geometry.transform import Letterbox
from roiseg.synthetic.dataset import synthetic_scene
from roiseg.synthetic.scene import Scene
from tools.tiny_detector.network import (
    IMAGE_SIZE,
    STRIDE,
    DenseHead,
    LabelledImages,
    RoiHead,
    TinyPersonNet,
    assign,
    dense_targets,
    person_boxes,
    sample_rois,
)

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
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    model = _to_onnx(network, image)
    _compare(model, network, image)
    _hide_features(model)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))
    return Path(path)


def _to_onnx(network: TinyPersonNet, image: torch.Tensor) -> onnx.ModelProto:
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter logs every pass
    try:
        program = torch.onnx.export(
            network, (image,), dynamo=True, opset_version=OPSET, input_names=["images"],
            output_names=["output", *INTERNAL], verbose=False,
        )  # fmt: skip
    finally:
        logging.disable(silenced)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:  # traces of the Python source are large and contain local paths
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.name = "tiny_person"
    return model


def _compare(model: onnx.ModelProto, network: TinyPersonNet, image: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["output", *INTERNAL], {"images": image.numpy()})
    with torch.no_grad():
        wanted = network(image)
    for name, a, b in zip(("output", *INTERNAL), found, wanted, strict=True):
        difference = float(np.abs(np.asarray(a) - b.numpy()).max())
        if difference > TOLERANCE:
            raise RuntimeError(f"ONNX Runtime and PyTorch differ by {difference:.2g} in {name}")


def _hide_features(model: onnx.ModelProto) -> None:
    """Turn the feature outputs into inner tensors with the same names and shapes."""
    inner = [output for output in model.graph.output if output.name in INTERNAL]
    for output in inner:
        model.graph.output.remove(output)
    known = {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(output for output in inner if output.name not in known)


ROIS_EACH = 3  # per image and step
PERSONS_MOST = 8  # per image


@dataclass(frozen=True)
class Pretraining:
    """Options of the training.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step.
        lr: peak of the one-cycle learning rate.
        seed: seed of weights, order, flips and jitter.
        device: "cpu", "cuda", ...
        bfloat16: compute convolutions in bfloat16 (twice as fast on processors that have it).
    """

    steps: int = 5000
    batch_size: int = 16
    lr: float = 3e-3
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = True


class _Student(nn.Module):
    """The network with auxiliary heads that are dropped after training."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyPersonNet()
        self.dense4, self.dense8 = DenseHead(), DenseHead()
        self.roi4 = RoiHead()


def pretrain(data: LabelledImages, how: Pretraining) -> TinyPersonNet:
    """Train a network from scratch on letterboxed images; return it in evaluation mode on the CPU."""
    torch.manual_seed(how.seed)
    generator = torch.Generator().manual_seed(how.seed)
    student = _Student().to(how.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(student.parameters(), lr=how.lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.lr, total_steps=how.steps + 1, pct_start=0.1
    )
    device = torch.device(how.device).type
    with progress_bar() as bar:
        task = bar.add_task("pre-training", total=how.steps)
        smooth = 0.0
        for step, batch in enumerate(_batches(data, how, generator)):
            with torch.autocast(device, torch.bfloat16, enabled=how.bfloat16):
                loss = _loss(student, batch, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
            bar.update(task, advance=1, description=f"pre-training, loss {smooth:.3f}")
            if not console.is_terminal and (step + 1) % max(how.steps // 10, 1) == 0:  # logs show no bar
                console.print(f"step {step + 1} of {how.steps}: loss {smooth:.3f}")
    return student.network.cpu().eval()


def _batches(data: LabelledImages, how: Pretraining, generator: torch.Generator) -> Iterator[LabelledImages]:
    """Yield random batches, half of the images flipped, with varied brightness and colour."""
    for _ in range(how.steps):
        batch = data.take(torch.randint(len(data), (how.batch_size,), generator=generator))
        mirrored = (torch.rand(how.batch_size, generator=generator) < 0.5)[:, None, None]
        instances = torch.where(mirrored, batch.instances.flip(-1), batch.instances)
        parts = torch.where(mirrored, batch.parts.flip(-1), batch.parts)
        images = torch.where(mirrored[:, None], batch.images.flip(-1), batch.images).float() / 255
        gain = 1 + 0.12 * torch.randn(how.batch_size, 3, 1, 1, generator=generator)
        shift = 0.05 * torch.randn(how.batch_size, 1, 1, 1, generator=generator)
        images = (images * gain + shift).clamp(0, 1)
        images = images.to(how.device, memory_format=torch.channels_last)
        yield LabelledImages(images, instances.to(how.device), parts.to(how.device))


def _loss(student: _Student, batch: LabelledImages, generator: torch.Generator) -> Tensor:
    boxes = person_boxes(batch.instances, PERSONS_MOST)
    features_s4, features_s8 = student.network.features(batch.images)
    total = detection_loss(student.network.raw(features_s8).float(), boxes)
    rois, labels = sample_rois(batch, boxes, ROIS_EACH, generator)
    if len(rois):
        total = total + 4.0 * student.roi4.loss(features_s4, rois, 4, labels)
    total = total + student.dense4.loss(features_s4, dense_targets(batch, boxes, 4))
    total = total + student.dense8.loss(features_s8, dense_targets(batch, boxes, 8))
    return total


def detection_loss(raw: Tensor, boxes: Tensor) -> Tensor:
    """Return the sum of objectness, box and score loss.

    Args:
        raw: network's rows before the sigmoid, `[B, cells, 6]`.
        boxes: `[B, N, 4]` input pixels, NaN for missing persons.
    """
    own, positive = assign(boxes, (IMAGE_SIZE, IMAGE_SIZE))
    objectness = F.binary_cross_entropy_with_logits(raw[..., 4], positive.float(), reduction="sum")
    count = positive.sum().clamp(min=1)
    if not positive.any():
        return objectness / count
    found, wanted = decode_rows(raw)[positive], own[positive]
    iou, giou = _iou(found, wanted)
    score = F.binary_cross_entropy_with_logits(
        raw[..., 5][positive], iou.detach().clamp(0, 1), reduction="sum"
    )
    return (objectness + 2 * (1 - giou).sum() + score) / count


def decode_rows(rows: Tensor) -> Tensor:
    """Decode detection rows [B, cells, 6] to boxes x1, y1, x2, y2 in input pixels [B, cells, 4]."""
    side = IMAGE_SIZE // STRIDE
    index = torch.arange(side * side, device=rows.device)
    cells = torch.stack([index % side, index // side], 1)
    centre = (rows[..., :2] + cells) * STRIDE
    half = rows[..., 2:4].clamp(max=6).exp() * STRIDE / 2
    return torch.cat([centre - half, centre + half], -1)


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of pairs of boxes [N, 4]."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = overlap / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def render_images(count: int, seed: int) -> LabelledImages:
    """Render letterboxed images from the random streams of the split "extractor".

    They never occur in a synthetic data set, since the split is part of the seed of each image.
    """
    letterboxed = [
        letterbox_scene(synthetic_scene(seed, "extractor", index))
        for index in track(range(count), "drawing images")
    ]
    images, instances, parts = (torch.from_numpy(np.stack(kind)) for kind in zip(*letterboxed, strict=True))
    return LabelledImages(images.permute(0, 3, 1, 2), instances, parts)


def letterbox_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Letterbox a scene: image [256, 256, 3], instances and parts [256, 256], uint8."""
    box = Letterbox((IMAGE_SIZE, IMAGE_SIZE))
    height, width = scene.instances.shape
    transform = box.fit(height, width)
    size = (round(transform.scale_x * width), round(transform.scale_y * height))
    top, left = round(transform.shift_y), round(transform.shift_x)
    labels = []
    for label in (scene.instances, scene.parts):
        canvas = np.zeros(box.size, np.uint8)
        small = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
        canvas[top : top + size[1], left : left + size[0]] = small
        labels.append(canvas)
    return box.apply(scene.image, transform), labels[0], labels[1]


def main() -> None:
    """Render images, train on them, and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", help="the ONNX file")
    parser.add_argument("--images", type=int, default=3500, help="to learn from, about 650 kB of memory each")
    parser.add_argument("--steps", type=int, default=Pretraining.steps)
    parser.add_argument("--device", default=Pretraining.device)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    check_output(given.output)
    torch.set_num_threads(given.threads)
    how = Pretraining(steps=given.steps, device=given.device)
    export_onnx(pretrain(render_images(given.images, how.seed), how), given.output)


if __name__ == "__main__":
    main()
