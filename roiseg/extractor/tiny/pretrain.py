"""Pre-training of the embedded extractor: detection loss, dense heads and a ROI head together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.common.console import console, progress_bar
from roiseg.extractor.tiny.heads import DenseHead, RoiHead, draw_rois
from roiseg.extractor.tiny.network import IMAGE_SIZE, STRIDE, TinyPersonNet
from roiseg.extractor.tiny.targets import Pictures, assign, dense_targets, person_boxes

ROIS_EACH = 3  # per picture and step
PERSONS_MOST = 8  # per picture


@dataclass(frozen=True)
class Pretraining:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps.
        batch_size: pictures a step.
        lr: peak of the one-cycle learning rate.
        seed: of weights, order, flips and jitter.
        device: "cpu", "cuda", ...
        bfloat16: compute convolutions in bfloat16 (twice as fast on processors that have it).
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    device: str
    bfloat16: bool


class _Student(nn.Module):
    """The network with the heads that are dropped afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyPersonNet()
        self.dense4, self.dense8 = DenseHead(), DenseHead()
        self.roi4 = RoiHead()


def pretrain(pictures: Pictures, how: Pretraining) -> TinyPersonNet:
    """Train a network from scratch on letterboxed pictures; returns it in evaluation mode on the CPU."""
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
        for step, batch in enumerate(_batches(pictures, how, generator)):
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


def _batches(pictures: Pictures, how: Pretraining, generator: torch.Generator) -> Iterator[Pictures]:
    """Random pictures, half of them mirrored, brightness and colour varied."""
    for _ in range(how.steps):
        batch = pictures.take(torch.randint(len(pictures), (how.batch_size,), generator=generator))
        mirrored = (torch.rand(how.batch_size, generator=generator) < 0.5)[:, None, None]
        instances = torch.where(mirrored, batch.instances.flip(-1), batch.instances)
        parts = torch.where(mirrored, batch.parts.flip(-1), batch.parts)
        images = torch.where(mirrored[:, None], batch.images.flip(-1), batch.images).float() / 255
        gain = 1 + 0.12 * torch.randn(how.batch_size, 3, 1, 1, generator=generator)
        shift = 0.05 * torch.randn(how.batch_size, 1, 1, 1, generator=generator)
        images = (images * gain + shift).clamp(0, 1)
        images = images.to(how.device, memory_format=torch.channels_last)
        yield Pictures(images, instances.to(how.device), parts.to(how.device))


def _loss(student: _Student, batch: Pictures, generator: torch.Generator) -> Tensor:
    boxes = person_boxes(batch.instances, PERSONS_MOST)
    features_s4, features_s8 = student.network.features(batch.images)
    total = detection_loss(student.network.raw(features_s8).float(), boxes)
    rois, labels = draw_rois(batch, boxes, ROIS_EACH, generator)
    if len(rois):
        total = total + 4.0 * student.roi4.loss(features_s4, rois, 4, labels)
    total = total + student.dense4.loss(features_s4, dense_targets(batch, boxes, 4))
    total = total + student.dense8.loss(features_s8, dense_targets(batch, boxes, 8))
    return total


def detection_loss(raw: Tensor, boxes: Tensor) -> Tensor:
    """Objectness, box and score loss.

    Args:
        raw: network's rows before the sigmoid, `[B, cells, 6]`.
        boxes: `[B, N, 4]` input pixels, NaN for the absent.
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
    """Detection rows [B, cells, 6] -> boxes x1, y1, x2, y2 in input pixels [B, cells, 4]."""
    side = IMAGE_SIZE // STRIDE
    index = torch.arange(side * side, device=rows.device)
    cells = torch.stack([index % side, index // side], 1)
    centre = (rows[..., :2] + cells) * STRIDE
    half = rows[..., 2:4].clamp(max=6).exp() * STRIDE / 2
    return torch.cat([centre - half, centre + half], -1)


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes [N, 4] pairwise."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = overlap / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)
