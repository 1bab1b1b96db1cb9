"""A training step of every decoder and of the reference head: `python -m benchmarks.decoder_step`.

Forward, backward and AdamW on 4 images of 4 ROIs (COCO's images have 4.1 persons) with features in memory,
in float32 and under bfloat16 autocast. The floor is the machine's best product or convolution of that type
in the same run: operations of a step (torch's FlopCounterMode, backward included) over its time, as a
share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peak import peak_flops
from benchmarks.reference_head import ReferenceHead
from benchmarks.report import show
from benchmarks.timing import race
from roiseg.config.entry import CONF_DIR
from roiseg.decoders.base import Decoder

IMAGE_SIZE = (416, 416)
ONE_LAYER = {8: 128}  # channels of a layer by its stride: YOLOX-Nano's `931`
THREE_LAYERS = {8: 64, 16: 128, 32: 256}  # its `952`, `917`, `886`
IMAGES, ROIS_PER_IMAGE = 4, 4
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REFERENCE = "reference head 28 to 56"
FINE = ["roi_size=[28,28]", "output_size=[112,112]"]


@dataclass(frozen=True)
class Step:
    """A training step that can be run again and again."""

    run: Callable[[], object]
    parameters: int
    flops: int  # of one step


def configured(model: str, layers: dict[int, int], options: Sequence[str] = ()) -> Decoder:
    """Build the decoder of `model=` on layers of these strides and channels."""
    with initialize_config_dir(str(CONF_DIR), version_base=None):
        config = compose("train", [f"model={model}", *(f"model.{option}" for option in options)])
    decoder: Decoder = instantiate(
        config.model,
        in_channels=list(layers.values()),
        strides=list(layers),
        image_size=IMAGE_SIZE,
        _convert_="all",
    )
    return decoder


def decoders() -> dict[str, Decoder]:
    """Return all decoders that are measured."""
    names = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
    found: dict[str, Decoder] = {
        REFERENCE: ReferenceHead([128], [8], IMAGE_SIZE),
        "roialign 28 to 112": configured("roialign", ONE_LAYER, FINE),
    }
    for name in names:
        found[name] = configured(name, THREE_LAYERS if name == "fcn8s" else ONE_LAYER)
    return found


def batch(decoder: Decoder, device: str = "cpu") -> tuple[list[Tensor], Tensor, Tensor]:
    """Return random features, ROIs with the shape of a person, and random targets."""
    generator = torch.Generator().manual_seed(0)
    height, width = decoder.image_size
    features = [
        torch.randn(IMAGES, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(decoder.in_channels, decoder.strides, strict=True)
    ]
    count = IMAGES * ROIS_PER_IMAGE
    size = torch.tensor([0.2 * width, 0.5 * height])
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - size)
    index = torch.arange(count)[:, None] // ROIS_PER_IMAGE
    rois = torch.cat([index, corner, corner + size], dim=1)
    targets = torch.randint(0, decoder.num_classes, (count, *decoder.output_size), generator=generator)
    return [feature.to(device) for feature in features], rois.to(device), targets.to(device)


def step_of(decoder: Decoder, dtype: torch.dtype, device: str = "cpu") -> Step:
    """Return a step like the LightningModule's: cross-entropy, and the mean of other trained outputs."""
    decoder = decoder.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    features, rois, targets = batch(decoder, device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-5)

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = decoder(features, rois)
        loss = F.cross_entropy(output.logits.float(), targets)
        for value in output.auxiliary.values():
            loss = loss + (value.float().mean() if value.requires_grad else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        run()
    return Step(run, sum(p.numel() for p in decoder.parameters()), counter.get_total_flops())


def main() -> None:
    """Measure and show."""
    peaks = {name: peak_flops("cpu", dtype) for name, dtype in PRECISIONS.items()}
    steps: dict[tuple[str, str], Step] = {}
    for precision, dtype in PRECISIONS.items():
        torch.manual_seed(0)
        steps |= {(name, precision): step_of(decoder, dtype) for name, decoder in decoders().items()}
    timings = race({f"{n} {p}": step.run for (n, p), step in steps.items()}, rounds=3)
    count = IMAGES * ROIS_PER_IMAGE
    rows = []
    for name in dict(steps):
        if name[1] != "float32":
            continue
        step, row = steps[name], [name[0]]
        row += [f"{step.parameters / 1e6:.2f} M", f"{step.flops / count / 1e9:.2f}"]
        for precision, peak in peaks.items():
            measured, reference = timings[f"{name[0]} {precision}"], timings[f"{REFERENCE} {precision}"]
            row += [
                f"{count / measured.median:.1f}",
                f"{reference.median / measured.median:.1f}x",
                f"{steps[name[0], precision].flops / measured.median / peak:.0%}",
            ]
        rows.append(row)
    columns = ["ROI/s", "param.", "GFLOP", "float32", "ratio", "peak", "bfloat16", "ratio", "peak"]
    reached = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in peaks.items())
    note = f"GFLOP: a ROI; peak: share of the best product or convolution in this run ({reached} GFLOP/s)"
    show("a training step, 4 images of 4 ROIs", columns, rows, note)


if __name__ == "__main__":
    main()
