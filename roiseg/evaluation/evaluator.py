"""Evaluation of a model on annotated boxes, the difference between two models, and the files of both."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roiseg.common.classes import TARGET
from roiseg.common.files import atomic_path, open_text, write_json
from roiseg.data.batch import RoiBatch
from roiseg.data.dataset import RoiDataset
from roiseg.evaluation.ranking import RankedInstance, Ranking
from roiseg.inference.model import RoiModel
from roiseg.metrics.average_precision import average_precision, gt_records, mask_result
from roiseg.metrics.confusion import Confusion
from roiseg.metrics.instance import InstanceGroup, InstanceRecord, group_instances
from roiseg.metrics.mask_score import calibration_error
from roiseg.metrics.registry import INSTANCE_METRICS
from roiseg.metrics.roi import RoiMetrics


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on a data set."""

    # the figures that a training's test logs, under the same names (`test/miou` ...), without losses
    test: dict[str, float]
    # COCO figures of the masks, ranked by their score, see `average_precision`
    precision: dict[str, float | None]
    # mean over ROIs of the target's IoU on the metric grid (`data.metric_size`), by most probable class; None
    # without ROIs
    grid_iou: float | None
    calibration_error: float | None  # of the mask scores, see `roiseg.metrics.mask_score`
    groups: list[InstanceGroup]
    classes: Confusion  # confusion of true and most probable class; with two classes, of target and rest
    target: Confusion  # confusion of true class and whether the target's probability is 0.5 or more
    records: list[InstanceRecord]
    results: list[dict[str, Any]]
    # the instances with the lowest IoU, `worst`, and with the highest, `best`
    ranked: dict[str, list[RankedInstance]]

    def summary(self) -> dict[str, Any]:
        """Return everything but single instances, for JSON."""
        return {
            "test": self.test,
            "average_precision": self.precision,
            "grid_iou": self.grid_iou,
            "mask_score_calibration_error": self.calibration_error,
            "groups": [group.summary() for group in self.groups],
            "confusion": {"classes": self.classes.summary(), "target": self.target.summary()},
            "rates": self.target.rates(),
        }


class Evaluator:
    """Measures a model batch by batch; masks are kept as RLE.

    Args:
        dataset: the data set with three classes that the batches come from.
        worst, best: numbers of instances to keep for a sheet.
    """

    def __init__(
        self,
        model: RoiModel,
        dataset: RoiDataset,
        worst: int = 20,
        best: int = 20,
        category_id: int = 1,
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.category_id = category_id
        self._metrics = RoiMetrics(model.num_classes)
        self._classes, self._target = Confusion(model.num_classes), Confusion(2)
        self._rankings = {"worst": Ranking(1, worst), "best": Ranking(-1, best)}
        self._records: list[InstanceRecord] = []
        self._results: list[dict[str, Any]] = []
        self._sides: list[float] = []
        self._grid_ious: list[float] = []
        self._images: list[int] = []  # indices in the annotations

    def update(self, batch: RoiBatch) -> None:
        """Add a batch, with its features, from an evaluation loader over the data set."""
        found = self.model.predict(batch)
        prediction = self.model.decision(found, batch.rois, self.model.image_size).cpu()
        measured = self._metrics.update(prediction, batch)
        truth = batch.metric_targets.cpu().long()
        self._classes.update(prediction.grid_classes, truth)
        self._target.update(prediction.grid_target >= 0.5, truth)
        ours, theirs = prediction.grid_classes == TARGET, truth == TARGET
        both, either = ((ours & theirs).sum(dim=(1, 2)), (ours | theirs).sum(dim=(1, 2)))
        self._grid_ious += (both / either.clamp(min=1)).tolist()
        for pasted, record in zip(measured.masks, measured.records, strict=True):
            for ranking in self._rankings.values():
                ranking.add(pasted, record)
            self._results.append(mask_result(pasted, self.category_id, pasted.score))
        self._records += measured.records
        self._images += [sample.image_index for sample in batch.samples if not sample.skipped]
        width, height = (batch.rois[:, 3:] - batch.rois[:, 1:3]).double().cpu().unbind(dim=1)
        self._sides += (width * height).sqrt().tolist()

    def compute(self) -> Evaluation:
        """Return the figures over all batches so far."""
        figures = self._metrics.compute()
        return Evaluation(
            {f"test/{name}": float(value) for name, value in figures.items()},
            _precision(self.dataset, self._images, self._results),
            sum(self._grid_ious) / len(self._grid_ious) if self._grid_ious else None,
            calibration_error([r.mask_score for r in self._records], [r.iou for r in self._records]),
            group_instances(self._records, self._sides),
            self._classes,
            self._target,
            self._records,
            self._results,
            {name: ranking.kept for name, ranking in self._rankings.items()},
        )


def _precision(
    dataset: RoiDataset, images: list[int], results: list[dict[str, Any]]
) -> dict[str, float | None]:
    """Compute average precision over the instances that are ROIs; the others were not predicted."""
    annotations = dataset.annotations
    ground_truth = [
        record
        for image in images
        for record in gt_records(annotations, image, annotations.eligible(image, dataset.min_roi_size))
    ]
    return average_precision(ground_truth, results, annotations.image_ids[images].tolist())


INSTANCE_FIGURES = tuple(f"test/{metric.name}" for metric in INSTANCE_METRICS)


@dataclass(frozen=True)
class ModelDifference:
    """Second evaluation minus first, on the same ROIs."""

    # difference of each figure that both have; pixel figures only if both distinguish the same number of
    # classes
    figures: dict[str, float]
    annotation_id: int | None  # the annotation whose IoU differs most
    largest: float | None  # its signed difference of IoU; None without instances

    def summary(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {
            "figures": self.figures,
            "largest_instance_iou_difference": self.largest,
            "annotation_id": self.annotation_id,
        }


def difference(first: Evaluation, second: Evaluation) -> ModelDifference:
    """Compare two evaluations of the same ROIs in the same order.

    Raises:
        ValueError: they are of different instances.
    """
    pairs = list(zip(first.records, second.records, strict=True))
    if any(a.annotation_id != b.annotation_id for a, b in pairs):
        raise ValueError("the evaluations are of different instances")
    changes = [(b.iou - a.iou, a.annotation_id) for a, b in pairs]
    largest, annotation_id = max(changes, key=lambda change: abs(change[0]), default=(None, None))
    before, after = comparable_figures(first, second), comparable_figures(second, first)
    figures = {
        name: other - value
        for name, value in before.items()
        if value is not None and (other := after.get(name)) is not None
    }
    return ModelDifference(figures, annotation_id, largest)


def comparable_figures(evaluation: Evaluation, other: Evaluation) -> dict[str, float | None]:
    """Return all figures of an evaluation; pixel figures only if both have as many classes."""
    same_classes = evaluation.classes.counts.shape == other.classes.counts.shape
    test = {
        name: value for name, value in evaluation.test.items() if same_classes or name in INSTANCE_FIGURES
    }
    own = {"grid_iou": evaluation.grid_iou, "mask_score_calibration_error": evaluation.calibration_error}
    return test | own | evaluation.precision | evaluation.target.rates()


def write_table(path: Path, records: Iterable[InstanceRecord]) -> None:
    """Write one row per instance, sorted by image and annotation; the write is atomic.

    The columns are the fields of `InstanceRecord`; boxes are rounded to a thousandth of a pixel.
    """
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(InstanceRecord._fields)
        for record in sorted(records, key=lambda r: (r.image_id, r.annotation_id)):
            box = {side: round(getattr(record, side), 3) for side in ("x1", "y1", "x2", "y2")}
            writer.writerow(record._replace(**box))


def write_as_run(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write `config.yaml` and `summary.json`, so that `python -m roiseg.report` reads the folder as a run.

    Args:
        folder: the folder with `instances.csv`.
        config: configuration that the checkpoint was trained with, changed where the evaluation differs.
        summary: see `roiseg.reporting.runs`.
    """
    with atomic_path(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create(dict(config)), path)
    write_json(folder / "summary.json", dict(summary))
