"""Compact features: what each step costs per image, and later epochs compared with online epochs.

`python -m benchmarks.compact` measures YOLOX-Nano; `--onnx FILE --layer NAME --image-size 640` another
detector. Online: the detector runs in every epoch, and the decoder reads all channels. Compact:
`extractor.project` in int8 on disk, as in `experiment=coco_person_compact`; its first epoch fills the cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.epoch import INT8, EpochTimes
from benchmarks.report import machine, show
from benchmarks.timing import race
from benchmarks.training import Run, make_run
from benchmarks.usual_loop import PERSONS, crowd_scenes
from roiseg.common.console import console
from roiseg.data.batch import collate
from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.onnx_extractor import OnnxExtractor

COLUMNS = ("online", "first", "later", "decoder alone", "online / later", "later / decoder")


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    folder: Path
    overrides: tuple[str, ...]
    project: int
    images: int
    epochs: int  # later ones, of which the median counts
    online_epochs: int
    clock: Callable[[], float]

    def run(self, persons: int, extractor: OnnxExtractor | None, *overrides: str) -> Run:
        """Build a training on images with `persons` persons each, all of them ROIs."""
        scenes = crowd_scenes(self.folder, persons, self.images)
        return make_run(
            self.folder, "data=coco128_person", "callbacks=[]", "logger=[]", "data/augment=null",
            f"data.train_annotations={scenes}", "data.batch_size=4", f"data.sampler.rois_per_image={persons}",
            f"paths.data_dir={self.folder}", *self.overrides, *overrides, extractor=extractor,
        )  # fmt: skip


def train(setting: Setting, run: Run, epochs: int) -> EpochTimes:
    """Train for some epochs and one before them, whose times come first."""
    times = EpochTimes(setting.clock)
    run.train(setting.folder, [times], max_epochs=epochs + 1, limit_val_batches=0)
    return times


def epochs(setting: Setting, persons: int, extractor: OnnxExtractor) -> tuple[str, ...]:
    """Return a row: milliseconds per image of each kind of epoch and of the decoder, and their ratios."""
    projection = extractor.projection
    extractor.project = extractor.projection = None
    online = train(setting, setting.run(persons, extractor), setting.online_epochs)
    extractor.project, extractor.projection = setting.project, projection
    compact = setting.run(
        persons, extractor, "data/cache=disk", INT8, f"paths.cache_dir={setting.folder}/{persons}"
    )
    kept = train(setting, compact, setting.epochs)
    decoder = [later / alone for later, alone in zip(kept.epoch[1:], kept.decoder[1:], strict=True)]
    first, later, alone = kept.epoch[0], median(kept.epoch[1:]), median(kept.decoder[1:])
    every = median(online.epoch[1:])
    times = (every, first, later, alone)
    return (
        str(persons), *(f"{1e3 * seconds / setting.images:.1f}" for seconds in times),
        f"{every / later:.1f}x", f"{median(decoder):.2f}x",
    )  # fmt: skip


def steps(setting: Setting, extractor: OnnxExtractor, rounds: int) -> list[tuple[str, str]]:
    """Return rows: the milliseconds per image of each step between image and decoder."""
    run = setting.run(1, extractor, "data/cache=disk", INT8, f"paths.cache_dir={setting.folder}/steps")
    cache, projection = run.data.cache, extractor.projection
    assert cache is not None and projection is not None
    inputs = extractor.preprocess(collate(run.data.samples("train", [0])).images)
    tensors = extractor.tensors(inputs)
    projected = projection(tensors)
    row = cache.codec.pack(projected)
    keys = [CacheKey.of("benchmark", 0)]
    cache.store(keys, row)
    times = race(
        {
            "extraction": lambda: extractor.tensors(inputs),
            "projection": lambda: projection(tensors),
            "encoding": lambda: cache.codec.pack(projected),
            "writing": lambda: cache.store(keys, row),
            "reading": lambda: cache.get(keys[0]),
            "decoding": lambda: cache.codec.unpack(row, extractor.shapes),
        },
        rounds,
        setting.clock,
    )
    return [(name, f"{1e3 * timing.median:.2f}") for name, timing in times.items()]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compact", description=__doc__)
    parser.add_argument("--onnx", type=Path, help="the detector; YOLOX-Nano of ROISEG_REALDATA by default")
    parser.add_argument("--layer", default="/model.34/Concat_output_0", help="its tensor")
    parser.add_argument("--image-size", type=int, default=640, help="side of its input")
    parser.add_argument("--project", type=int, help="channels kept; an eighth by default")
    parser.add_argument("--images", type=int, default=16, help="of an epoch")
    parser.add_argument("--persons", type=int, nargs="+", default=PERSONS, help="per image, all of them ROIs")
    parser.add_argument("--epochs", type=int, default=5, help="with kept features")
    parser.add_argument("--online-epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="of the single steps")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of one core instead of the clock's, for busy machines"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    given = parse(arguments)
    overrides: tuple[str, ...] = ("extractor=yolox",)
    if given.onnx is not None:
        size = f"[{given.image_size},{given.image_size}]"
        overrides = (
            "extractor=yolov9", "extractor.postprocess=null", f"extractor.onnx_path={given.onnx}",
            f"extractor.layers=['{given.layer}']", f"extractor.preprocess.image_size={size}",
        )  # fmt: skip
    if given.cpu_time:
        torch.set_num_threads(1)
        overrides += ("extractor.threads=1", "data.num_workers=0")
    clock = time.process_time if given.cpu_time else time.perf_counter
    console.print(machine(), highlight=False)
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(
            Path(name), overrides, given.project or 0, given.images, given.epochs, given.online_epochs, clock
        )
        extractor = setting.run(1, None).data.extractor
        channels, height, width = extractor.tensor_shapes[0]
        extractor.project = given.project or channels // 8
        setting = replace(setting, project=extractor.project)
        title = f"{channels} x {height} x {width} to {extractor.project} channels, int8"
        show(f"Steps of an image, {title}; medians", ("", "ms"), steps(setting, extractor, given.rounds))
        for persons in given.persons:  # one table each: with a large detector they take minutes
            show(
                f"Epochs of {given.images} images, roialign, {title}; ms per image, medians",
                ("ROIs per image", *COLUMNS),
                [epochs(setting, persons, extractor)],
            )


if __name__ == "__main__":
    main()
