"""A model measured on annotated boxes: all figures that are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roiseg.data.batch import RoiBatch
from roiseg.data.dataset import RoiDataset
from roiseg.evaluation.coco_results import mask_result
from roiseg.evaluation.ranking import RankedInstance, Ranking
from roiseg.inference.model import RoiModel
from roiseg.metrics.average_precision import average_precision, truth_records
from roiseg.metrics.confusion import Confusion
from roiseg.metrics.instance import InstanceRecord
from roiseg.metrics.roi import RoiMetrics
from roiseg.metrics.size_bands import Band, bands


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a data set.

    Attributes:
        test: the figures of a training's test, under their names there (`test/miou` ...), without losses.
        precision: COCO's, see `average_precision`.
        bands: by size and company.
        classes: true by most probable class; of a model that tells the target from the rest: by that.
        target: true class by whether the target's probability is 0.5 or more.
        records: every instance.
        results: every mask as COCO result.
        worst: the instances of lowest IoU.
    """

    test: dict[str, float]
    precision: dict[str, float | None]
    bands: list[Band]
    classes: Confusion
    target: Confusion
    records: list[InstanceRecord]
    results: list[dict[str, Any]]
    worst: list[RankedInstance]

    def summary(self) -> dict[str, Any]:
        """For json, single instances aside."""
        return {
            "test": self.test,
            "average_precision": self.precision,
            "bands": [band._asdict() for band in self.bands],
            "confusion": {"classes": self.classes.summary(), "target": self.target.summary()},
            "shares": self.target.shares(),
        }


class Evaluator:
    """Measures a model batch by batch. Masks are kept as RLE only.

    Args:
        model: what is measured.
        dataset: where truth comes from; with three classes.
        worst: how many instances to keep for a sheet.
        by_quality: masks are ranked by their `PastedMask.quality` for average precision; else as they come.
        category_id: of the annotations, and so of the results.
    """

    def __init__(
        self,
        model: RoiModel,
        dataset: RoiDataset,
        worst: int = 20,
        by_quality: bool = True,
        category_id: int = 1,
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.by_quality = by_quality
        self.category_id = category_id
        self._metrics = RoiMetrics(model.num_classes)
        self._classes, self._target = Confusion(model.num_classes), Confusion(2)
        self._ranking = Ranking(1, worst)
        self._records: list[InstanceRecord] = []
        self._results: list[dict[str, Any]] = []
        self._sides: list[float] = []
        self._images: list[int] = []  # by index in the annotations

    def update(self, batch: RoiBatch) -> None:
        """Add a batch with its features, from an evaluation loader over the data set."""
        prediction = self.model.predict(batch).cpu()
        measured = self._metrics.update(prediction, batch)
        truth = batch.metric_targets.cpu().long()
        self._classes.update(prediction.grid_classes, truth)
        self._target.update(prediction.grid_target >= 0.5, truth)
        for pasted, record in zip(measured.masks, measured.records, strict=True):
            self._ranking.add(pasted, record)
            score = pasted.quality if self.by_quality else 1.0
            self._results.append(mask_result(pasted, self.category_id, score))
        self._records += measured.records
        self._images += [sample.image_index for sample in batch.samples if not sample.skipped]
        width, height = (batch.rois[:, 3:] - batch.rois[:, 1:3]).double().cpu().unbind(dim=1)
        self._sides += (width * height).sqrt().tolist()

    def compute(self) -> Evaluation:
        """The figures over all batches so far."""
        figures = self._metrics.compute()
        return Evaluation(
            {f"test/{name}": float(value) for name, value in figures.items()},
            _precision(self.dataset, self._images, self._results),
            bands(self._records, self._sides),
            self._classes,
            self._target,
            self._records,
            self._results,
            self._ranking.kept,
        )


def _precision(
    dataset: RoiDataset, images: list[int], results: list[dict[str, Any]]
) -> dict[str, float | None]:
    """Over the instances of some images that are ROIs: the others were not asked for."""
    annotations = dataset.annotations
    truths = [
        record
        for image in images
        for record in truth_records(annotations, image, annotations.eligible(image, dataset.min_roi_size))
    ]
    return average_precision(truths, results, annotations.image_ids[images].tolist())
