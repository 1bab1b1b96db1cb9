"""`python -m roiseg.predict source=... ckpt=...`: masks of the persons in images, folders and videos."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field, PositiveFloat, PositiveInt
from rich.table import Table

from roiseg.common.console import console, print_values
from roiseg.common.errors import UserError
from roiseg.common.outputs import check_folder, inside
from roiseg.common.types import PositiveShare, Share
from roiseg.config.build import given_decision, object_nodes, require_device
from roiseg.config.entry import command
from roiseg.config.evaluation_setup import trusted_values
from roiseg.config.run_dir import claimed
from roiseg.config.validation import Builds, check_onnx_options, validated
from roiseg.data.tta import TTA
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.inference.box_files import open_boxes
from roiseg.inference.box_files.base import BoxFile
from roiseg.inference.checkpoint import listed_paths, read_checkpoint
from roiseg.inference.decision import Decision
from roiseg.inference.image_predictions import ImagePredictions, PredictionCounts, knows_any
from roiseg.inference.model import open_model
from roiseg.inference.predictor import Predictor
from roiseg.inference.sources.image_files import open_source
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import Writer

log = logging.getLogger(__name__)


class Options(TypedDict):
    """Keys of conf/predict.yaml."""

    decision: Decision | None
    postprocess: Postprocessor | None
    tta: TTA | None
    writers: Mapping[str, Annotated[dict[str, Any] | None, Builds(Writer)]]
    source: str | list[str]
    ckpt: str | list[str] | None
    onnx: str | None
    onnx_path: str | None
    device: str | None
    boxes: str
    max_boxes: PositiveInt
    min_score: Share
    threshold: PositiveShare
    pixel_size: PositiveFloat
    on_error: Literal["raise", "skip"]
    category_id: int | None
    crowd: Literal["region", "instance"] | None
    class_id: Annotated[int, Field(ge=0, lt=2**31)]
    label: str
    output_dir: str


@dataclass(frozen=True)
class Run:
    """Counts of a prediction run, and where its files are."""

    counts: PredictionCounts
    seconds: float
    folder: Path
    places: dict[str, Path]


def predict(cfg: DictConfig) -> Run:
    """Predict from a composed configuration; nothing is written before all inputs are checked.

    Raises:
        UserError: a mistake in the configuration or a file; no image could be read.
    """
    content = validated(cfg, Options)
    check(content)
    check_folder(content["output_dir"], "output_dir")
    if content["crowd"] is None:
        content["crowd"] = str(trained_on(content["ckpt"]).get("crowd", "region"))
    decision = given_decision(cfg)
    source = open_source(content["source"])
    nodes = object_nodes(cfg, "writers")
    writers: dict[str, Writer] = {name: instantiate(node, _convert_="all") for name, node in nodes.items()}
    model = open_model(
        content["ckpt"], content["onnx"], content["onnx_path"], require_device(content["device"]),
        content["postprocess"], decision,
    )  # fmt: skip
    predictor = Predictor(model, instantiate(cfg.tta, _convert_="all"), content["max_boxes"])
    boxes = find_boxes(content, source, predictor)
    predictions = ImagePredictions(
        predictor, source, boxes, content["min_score"], content["threshold"], content["pixel_size"],
        skip=content["on_error"] == "skip",
    )  # fmt: skip
    start = time.perf_counter()
    with claimed(content["output_dir"]) as folder, ExitStack() as stack:
        places = {name: inside(folder, writer.place(source)) for name, writer in writers.items()}
        takers = [stack.enter_context(writer.open(folder, source)) for writer in writers.values()]
        for result in predictions:
            for take in takers:
                take(result)
    report_left_out(predictions.counts, boxes)
    return Run(predictions.counts, time.perf_counter() - start, folder, places)


def check(content: dict[str, Any]) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: names the key.
    """
    if not any(content.get("writers", {}).values()):
        raise UserError("writers is empty: choose some of conf/writers, 'writers=[coco,overlay]'")
    check_onnx_options(content, ("tta", "device", "decision"))


def trained_on(ckpt: str | list[str] | None) -> dict[str, Any]:
    """Return files and category of the data that a checkpoint, or an ensemble's first, was trained on.

    Raises:
        UserError: the checkpoint is missing, damaged or not trusted.
    """
    if ckpt is None:
        return {}
    first = Path(listed_paths(ckpt)[0])
    return trusted_values(read_checkpoint(first)["roiseg"]["config"], first)


def find_boxes(content: dict[str, Any], source: Source, predictor: Predictor) -> BoxFile | None:
    """Open the file that `boxes` names; None for the detector's own boxes.

    Raises:
        UserError: there is none, or the detector's output cannot be read.
    """
    category = predictor.model.category_id if content["category_id"] is None else content["category_id"]
    options = category, content["class_id"], content["crowd"]
    if content["boxes"] == "detector":
        if not predictor.has_detector:
            raise UserError(
                "boxes=detector needs a postprocessor: give postprocess=yolox, yolo, rtdetr, ... "
                "(conf/postprocess), and onnx_path for a merged ONNX file; or give boxes=FILE"
            )
        assert predictor.model.extractor is not None and predictor.model.extractor.postprocess is not None
        if doubt := predictor.model.extractor.postprocess.label_warning(category):
            log.warning(doubt)
        return None
    if content["boxes"] != "coco":
        return open_boxes(content["boxes"], *options)
    if content["ckpt"] is None:
        raise UserError("boxes=coco are those a checkpoint was trained on: give ckpt=..., or boxes=FILE")
    data = trained_on(content["ckpt"])
    files = [data[key] for key in ("val_annotations", "train_annotations") if data.get(key)]
    if not files:
        raise UserError(f"checkpoint {content['ckpt']} does not name its annotations: give boxes=FILE")
    for file in files:
        found = open_boxes(file, *options)
        if knows_any(found, source):
            break
    return found


def report_left_out(counts: PredictionCounts, boxes: BoxFile | None) -> None:
    """Warn of images that could not be read or that no boxes were given for.

    Raises:
        UserError: no image could be read.
    """
    if counts.skipped and not counts.images:
        raise UserError(f"no image could be read, the first of {len(counts.skipped)}: {counts.skipped[0]}")
    if counts.skipped:
        log.warning("%d images skipped; the first: %s", len(counts.skipped), counts.skipped[0])
    if counts.exif_turned:
        log.warning(
            "%d images are rotated by their EXIF orientation, such as %s, and the boxes file does not say "
            "whether its boxes are; the boxes are read as those of the rotated image",
            len(counts.exif_turned), counts.exif_turned[0],
        )  # fmt: skip
    if counts.unlisted and boxes is not None:
        log.warning("%d images are not in boxes file %s: treated as empty", counts.unlisted, boxes.path)


def show(run: Run) -> None:
    """Print what was found, how long it took, and where it is."""
    counts, table = run.counts, Table(title="prediction", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("images", f"{counts.images:,} ({counts.empty:,} without instances)")
    if counts.skipped:
        table.add_row("skipped", f"{len(counts.skipped):,}")
    table.add_row("instances", f"{counts.instances:,}")
    each = (seconds / max(counts.images, 1) for seconds in (counts.seconds, run.seconds))
    table.add_row("seconds per image", "{:.3f}, with reading and writing {:.3f}".format(*each))
    console.print(table)
    print_values(run.places)


@command("predict", words="source")
def main(cfg: DictConfig) -> None:
    """Predict, and print counts and places."""
    show(predict(cfg))


if __name__ == "__main__":
    main()
