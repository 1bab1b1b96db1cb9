"""Cost of full COCO with YOLOv9-E, computed from stated assumptions; each is an option of the command.

Time: work / (peak x efficiency), spread evenly over the GPUs of one machine; reading, extracting and training
overlap, so that an epoch takes as long as the slowest of them. Transfers among the GPUs (a few million
gradients per step) and validation are ignored.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from benchmarks.report import show
from roiseg.config.entry import CONF_DIR
from roiseg.decoders.base import Decoder
from roiseg.diagnosis.decoder_costs import measure_cost

SHAPE = (1024, 80, 80)  # /model.34/Concat_output_0 of YOLOv9-E at 640x640, stride 8
STRIDE = 8
IMAGE_SIZE = (640, 640)
GPUS = (1, 4, 8)
TRAINING = 3  # forward plus twice that for backward, in floating-point operations

_SOURCES = {
    "images": "COCO train2017 with persons",
    "persons": "COCO train2017, crowds included",
    "rois": "drawn from an image and epoch: data.sampler.rois_per_image",
    "epochs": "experiment=coco_person",
    "views": "images kept of an image: 1 without augmentation, else data/pool",
    "extractor_gflops": "the whole of YOLOv9-E at 640x640 (its paper, table 1); the cut graph needs less",
    "extractor_tflops": "peak of the GPU for it: A100, TF32",
    "extractor_efficiency": "assumed share of that peak, batch 1 in ONNX Runtime",
    "decoder_tflops": "peak for the decoder: A100, bf16",
    "decoder_efficiency": "assumed share: small tensors",
    "loader_ms": "assumed: JPEG, augmentation and targets of an image on a CPU core",
    "cached_loader_ms": "assumed: targets and cached features of an image on a CPU core",
    "cores": "CPU cores a GPU",
    "channels": "extractor.project: channels of compact features, stored in int8",
    "runs": "runs of an ablation that share one cache",
    "disk_gbs": "assumed GB/s of the machine's disk: one NVMe drive",
}


@dataclass(frozen=True)
class Assumptions:
    """The assumptions behind the figures; `_SOURCES` names the source of each."""

    images: int = 64_115
    persons: int = 262_465
    rois: int = 4
    epochs: int = 20
    views: int = 1
    extractor_gflops: float = 189.0
    extractor_tflops: float = 156.0
    extractor_efficiency: float = 0.2
    decoder_tflops: float = 312.0
    decoder_efficiency: float = 0.2
    loader_ms: float = 12.0
    cached_loader_ms: float = 3.0
    cores: int = 8
    channels: int = 128
    runs: int = 12
    disk_gbs: float = 3.0


@dataclass(frozen=True)
class Epoch:
    """Hours of one epoch on a number of GPUs, and GB/s of the disk that float16 features are read from."""

    online: float
    cached: float
    compact: float  # cached, projected and in int8
    disk_to_gain: float  # a slower one makes reading slower than extracting
    disk_to_wait_never: float  # above this the decoder limits the speed


def megabytes(channels: int, bytes_a_number: int) -> float:
    """Return the size of an image's features in 10^6 bytes, at 1 or 2 bytes per number."""
    return channels * math.prod(SHAPE[1:]) * bytes_a_number / 1e6


def feature_gb(assumed: Assumptions, channels: int, bytes_a_number: int) -> float:
    """Return the size of all features in 10^9 bytes."""
    return assumed.images * assumed.views * megabytes(channels, bytes_a_number) / 1e3


def extraction_ms(assumed: Assumptions) -> float:
    """Return the milliseconds of the extractor for one image on one GPU."""
    return assumed.extractor_gflops / (assumed.extractor_tflops * assumed.extractor_efficiency)


def decoder_gflops(assumed: Assumptions, decoder: Decoder) -> float:
    """Return the 10^9 floating-point operations of a training step for one image and its ROIs."""
    cost = measure_cost(decoder, [(decoder.in_channels[0], *SHAPE[1:])])
    return TRAINING * 2 * (cost.image_macs + assumed.rois * cost.roi_macs) / 1e9


def decoder_ms(assumed: Assumptions, gflops: float) -> float:
    """Return the milliseconds of that step on one GPU."""
    return gflops / (assumed.decoder_tflops * assumed.decoder_efficiency)


def epoch(assumed: Assumptions, gpus: int, step_ms: float, compact_ms: float) -> Epoch:
    """Return the hours of an epoch whose decoder takes `step_ms` per image, or `compact_ms` if projected."""
    hours = assumed.images / gpus / 3.6e6
    loading, extracting = assumed.loader_ms / assumed.cores, extraction_ms(assumed)
    loading_cached = assumed.cached_loader_ms / assumed.cores
    whole, compact = megabytes(SHAPE[0], 2), megabytes(assumed.channels, 1)
    # ms per image: the GPUs share the disk
    reading, reading_compact = (gpus * size / assumed.disk_gbs for size in (whole, compact))
    return Epoch(
        online=hours * max(loading, extracting, step_ms),
        cached=hours * max(reading, loading_cached, step_ms),
        compact=hours * max(reading_compact, loading_cached, compact_ms),
        disk_to_gain=gpus * whole / extracting,
        disk_to_wait_never=gpus * whole / step_ms,
    )


def build_decoder(name: str, channels: int) -> Decoder:
    """Build the decoder of `model=name` on these features, projected to `channels`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        node = compose("train", [f"model={name}"]).model
    shared = {"in_channels": (channels,), "strides": (STRIDE,), "image_size": IMAGE_SIZE}
    return instantiate(node, **shared, _convert_="all")


def parse(arguments: Sequence[str] | None) -> tuple[Assumptions, str]:
    """Parse the assumptions and the name of the model from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coco_cost", description=__doc__)
    parser.add_argument("--model", default="roialign", help="a choice of model=")
    for field in fields(Assumptions):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            option, type=type(field.default), default=field.default, help=_SOURCES[field.name]
        )
    given = vars(parser.parse_args(arguments))
    model = given.pop("model")
    return Assumptions(**given), model


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the assumptions and the resulting figures."""
    assumed, model = parse(arguments)
    gflops = decoder_gflops(assumed, build_decoder(model, SHAPE[0]))
    step_ms = decoder_ms(assumed, gflops)
    compact_ms = decoder_ms(assumed, decoder_gflops(assumed, build_decoder(model, assumed.channels)))
    rows = [
        (field.name.replace("_", "-"), f"{getattr(assumed, field.name):,}", _SOURCES[field.name])
        for field in fields(Assumptions)
    ]
    show("assumed (each is an option of this command)", ("", "value", "from"), rows)
    channels, height, width = SHAPE
    single = extraction_ms(assumed)
    facts = [
        ("persons an image", f"{assumed.persons / assumed.images:.2f}"),
        (f"features of an image, {channels} x {height} x {width}", f"{math.prod(SHAPE) / 1e6:.2f} M numbers"),
        ("all features, float16", f"{feature_gb(assumed, channels, 2):,.0f} GB"),
        ("all features, int8", f"{feature_gb(assumed, channels, 1):,.0f} GB"),
        (
            f"compact: {assumed.channels} channels, int8",
            f"{feature_gb(assumed, assumed.channels, 1):,.0f} GB",
        ),
        ("extraction", f"{single:.2f} ms an image and GPU"),
        ("loading", f"{assumed.loader_ms / assumed.cores:.2f} ms an image and GPU"),
        (
            f"training {model}, {assumed.rois} ROIs per image",
            f"{gflops:.1f} GFLOP, {step_ms:.2f} ms an image",
        ),
        (
            "the usual loop, extraction a person and epoch",
            f"{assumed.persons * single / 3.6e6:.2f} h an epoch on 1 GPU",
        ),
    ]
    show("an image", ("", "computed"), facts)
    runs = []
    for gpus in GPUS:
        one = epoch(assumed, gpus, step_ms, compact_ms)
        first, later = one.online * assumed.views, assumed.epochs - assumed.views
        filled, compact = first + one.cached * later, first + one.compact * later
        many = compact + (assumed.runs - 1) * one.compact * assumed.epochs
        runs.append(
            (gpus, *(f"{60 * hours:.1f}" for hours in (one.online, one.cached, one.compact)),
             f"{one.disk_to_gain:.1f}", f"{one.disk_to_wait_never:.0f}", f"{one.online * assumed.epochs:.2f}",
             f"{filled:.2f}", f"{compact:.2f}", f"{one.online * assumed.epochs * assumed.runs:.1f}",
             f"{many:.1f}")
        )  # fmt: skip
    columns = (
        "GPUs", "online min", "cached min", "compact min", "disk to gain", "disk to wait never",
        f"{assumed.epochs} epochs online h", "cached h", "compact h", f"{assumed.runs} runs online h",
        "compact h",
    )  # fmt: skip
    note = (
        f"cached: float16 features read at {assumed.disk_gbs:g} GB/s by all GPUs together. Disk, GB/s: below "
        "the first figure reading is slower than extracting, from the second on the decoder sets the pace"
    )
    show("an epoch, and a run", columns, runs, note)


if __name__ == "__main__":
    main()
