"""Measurements on an NVIDIA GPU: `python -m benchmarks.gpu` (ROISEG_REALDATA=FOLDER); one line without a GPU.

- Features stay on the device: the extractor's outputs are CUDA tensors that ONNX Runtime wrote in place.
- Training steps of decoders in float32 and bfloat16 against the roofline: operations at the card's best
  product, or parameters, gradients, moments and features moved once at its memory's speed, whichever is
  longer.
- Extraction by the CUDA provider alone, training steps alone, and both at once in two threads with a
  stream each; the floor of both at once is the longer of the two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.decoder_step import (
    FINE,
    IMAGES,
    ONE_LAYER,
    PRECISIONS,
    REFERENCE,
    ROIS_PER_IMAGE,
    Step,
    batch,
    configured,
    step_of,
)
from benchmarks.peak import bandwidth, gemm_flops
from benchmarks.real import yolox
from benchmarks.reference_head import ReferenceHead
from benchmarks.report import show
from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor

REPEATS = 30  # runs per measurement, after a few untimed ones
COUNT = IMAGES * ROIS_PER_IMAGE


@dataclass(frozen=True)
class Roofline:
    """The peak rates of the GPU."""

    flops: float  # per second, of a product
    bytes: float  # per second, of a copy

    def seconds(self, operations: float, moved: float) -> float:
        """Return the minimum time for these operations and bytes, if they overlap."""
        return max(operations / self.flops, moved / self.bytes)


def moved_bytes(decoder: Decoder, features: list[Tensor]) -> int:
    """Return the bytes that a step moves at least.

    Of each parameter in float32: value, gradient and AdamW's two moments are read and three of them written,
    the gradient is written once before; features are read once.
    """
    parameters = sum(p.numel() for p in decoder.parameters())
    return 4 * 8 * parameters + sum(f.numel() * f.element_size() for f in features)


def median_seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a run on the GPU, with synchronization."""
    times = []
    for number in range(repeats + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def at_once(one: Callable[[], object], other: Callable[[], object], repeats: int, gpu: bool = True) -> float:
    """Return the seconds of a pair of runs in two threads with a CUDA stream each."""

    def work(run: Callable[[], object]) -> None:
        if not gpu:
            for _ in range(repeats):
                run()
            return
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(repeats):
                run()
            stream.synchronize()

    threads = [threading.Thread(target=work, args=(run,)) for run in (one, other)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / repeats


def measured_decoders() -> dict[str, Decoder]:
    """Return the decoders whose steps are measured."""
    torch.manual_seed(0)
    return {
        REFERENCE: ReferenceHead([128], [8], (416, 416)),
        "roialign 28 to 112": configured("roialign", ONE_LAYER, FINE),
        **{name: configured(name, ONE_LAYER) for name in ("roialign", "maskrcnn", "condinst", "sam")},
    }


def show_steps() -> None:
    """Show training steps against the roofline."""
    copied = bandwidth("cuda")
    rows = []
    for precision, dtype in PRECISIONS.items():
        roofline = Roofline(gemm_flops("cuda", dtype, side=8192), copied)
        for name, decoder in measured_decoders().items():
            step = step_of(decoder, dtype, "cuda")
            seconds = median_seconds(step.run)
            floor = roofline.seconds(step.flops, moved_bytes(decoder, batch(decoder)[0]))
            rows.append([
                f"{name}, {precision}",
                f"{COUNT / seconds:.0f}",
                f"{1e3 * seconds:.2f}",
                f"{1e3 * floor:.3f}",
                f"{step.flops / seconds / roofline.flops:.1%}",
            ])  # fmt: skip
        note = f"copy {copied / 1e12:.2f} TB/s, {precision} product {roofline.flops / 1e12:.0f} TFLOP/s"
        console.print(note, highlight=False)
    columns = ["training step", "ROI/s", "ms", "floor ms", "of the best product"]
    show(f"{IMAGES} images of {ROIS_PER_IMAGE} ROIs", columns, rows)


def check_on_device(extractor: OnnxExtractor, pictures: Tensor) -> None:
    """Check that features are CUDA tensors from the CUDA provider.

    Raises:
        UserError: ONNX Runtime cannot use the GPU, or features pass through the CPU.
    """
    if extractor.providers[0] != "CUDAExecutionProvider":
        raise UserError(f"onnxruntime has no CUDA here, it runs {', '.join(extractor.providers)}")
    for feature in extractor(pictures):
        if not feature.is_cuda or feature.data_ptr() == 0:
            raise UserError(f"a feature map lies on {feature.device}, not on the GPU")


def show_overlap() -> None:
    """Show extraction, training steps, and both at once."""
    extractor = yolox()
    pictures = torch.randint(0, 256, (IMAGES, 416, 416, 3), dtype=torch.uint8, device="cuda")
    check_on_device(extractor, pictures)
    step: Step = step_of(configured("roialign", ONE_LAYER), torch.bfloat16, "cuda")
    alone = {
        "extraction": median_seconds(lambda: extractor(pictures)),
        "training step, bfloat16": median_seconds(step.run),
    }
    both = at_once(lambda: extractor(pictures), step.run, REPEATS)
    rows = [[name, f"{1e3 * seconds:.2f}"] for name, seconds in alone.items()]
    rows += [
        ["both at once", f"{1e3 * both:.2f}"],
        ["floor: the longer", f"{1e3 * max(alone.values()):.2f}"],
        ["one after the other", f"{1e3 * sum(alone.values()):.2f}"],
    ]
    show(f"YOLOX-Nano features and roialign, {IMAGES} images: features stay on the GPU", ["", "ms"], rows)


def main() -> None:
    """Measure, if there is a GPU."""
    if not torch.cuda.is_available():
        console.print("no NVIDIA GPU that torch can use: nothing measured")
        return
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", highlight=False)
    show_steps()
    show_overlap()


if __name__ == "__main__":
    main()
