"""Instance IoU against errors of the boxes: `python -m benchmarks.box_error CHECKPOINT ... [--figure PNG]`.

Each checkpoint predicts the images of its own test, such as the held-out fold of its run, in annotated boxes
that were changed: every edge moved at random, all boxes enlarged, shrunk, or one side cut off. A mask cannot
extend beyond its box. Without test-time augmentation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from benchmarks.report import show
from roiseg.common.console import track
from roiseg.config.compose import compose_run
from roiseg.config.evaluation_setup import open_models, register_checkpoint_data
from roiseg.metrics.instance import instance_iou, paste_masks

AMOUNTS = (0.05, 0.1, 0.2, 0.3)  # of the box's width and height

Change = Callable[[Tensor, Tensor, float], Tensor]  # boxes [R, 4], random numbers -1 ... 1 [R, 4], amount


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _outwards(boxes: Tensor, amount: float) -> Tensor:
    return boxes + _sides(boxes) * amount / 2 * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def _cut(boxes: Tensor, random: Tensor, amount: float) -> Tensor:
    inwards = torch.tensor([1.0, 1.0, -1.0, -1.0])
    one = torch.nn.functional.one_hot(random.argmax(dim=1), 4)
    return boxes + _sides(boxes) * amount * inwards * one


CHANGES: dict[str, Change] = {
    "every edge moved at random, up to": lambda boxes, random, amount: (
        boxes + _sides(boxes) * amount * random
    ),
    "box larger by": lambda boxes, random, amount: _outwards(boxes, amount),
    "box smaller by": lambda boxes, random, amount: _outwards(boxes, -amount),
    "one side cut off by": _cut,
}


def measure(checkpoint: str, cases: list[tuple[str, float]]) -> list[list[float]]:
    """Return the instance IoU of every ROI for every case, and for the boxes as annotated."""
    register_checkpoint_data([f"ckpt={checkpoint}"])
    model = open_models(compose_run("outputs", f"ckpt={checkpoint}", "tta=null", config="evaluate"))[
        "checkpoint"
    ]
    height, width = model.model.image_size
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    found: list[list[float]] = [[] for _ in range(len(cases) + 1)]
    generator = torch.Generator().manual_seed(0)
    for batch in track(model.data.test_dataloader(), checkpoint):
        boxes = batch.rois[:, 1:].cpu()
        random = 2 * torch.rand(boxes.shape, generator=generator) - 1
        changed = [boxes, *(CHANGES[name](boxes, random, amount) for name, amount in cases)]
        for ious, some in zip(found, changed, strict=True):
            rois = torch.cat([batch.rois[:, :1].cpu(), some.clamp(min=0).minimum(limits)], dim=1)
            given = replace(batch, rois=rois.to(batch.rois.device))
            prediction = model.model.predict(given)
            decided = model.model.decision(prediction, given.rois, model.model.image_size)
            ious += [instance_iou(mask) for mask in paste_masks(decided, given)]
    return found


def curves(exact: float, means: Mapping[str, Sequence[float]]) -> Figure:
    """Plot the mean IoU of each change against its amounts; `exact` is that of the annotated boxes."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (name, values), marker in zip(means.items(), "os^D", strict=True):
        axes.plot([0, *AMOUNTS], [exact, *values], marker=marker, label=name.removesuffix(" by"))
    axes.set(xlabel="amount, of the box's side", ylabel="mean instance IoU")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    """Measure the checkpoints of the command line, ROIs pooled."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--figure", help="PNG file of the curves")
    given = parser.parse_args()
    cases = [(name, amount) for name in CHANGES for amount in AMOUNTS]
    measured = [measure(checkpoint, cases) for checkpoint in given.checkpoints]
    exact, *ious = [
        np.array([iou for one in measured for iou in one[case]]) for case in range(len(cases) + 1)
    ]
    rows = [["as annotated", "", f"{exact.mean():.3f}", ""]]
    for (name, amount), values in zip(cases, ious, strict=True):
        rows.append([name, f"{amount:.0%}", f"{values.mean():.3f}", f"{(values - exact).mean():+.3f}"])
    show(
        f"{len(exact)} ROIs, {len(measured)} checkpoints", ["boxes", "amount", "instance IoU", "change"], rows
    )
    if given.figure:
        count = len(AMOUNTS)
        means = {
            name: [v.mean() for v in ious[n * count : (n + 1) * count]] for n, name in enumerate(CHANGES)
        }
        curves(float(exact.mean()), means).savefig(given.figure)


if __name__ == "__main__":
    main()
