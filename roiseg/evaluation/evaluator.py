"""A model measured on annotated boxes: all figures that are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roiseg.common.classes import BACKGROUND, NON_TARGET
from roiseg.data.batch import RoiBatch
from roiseg.data.dataset import RoiDataset
from roiseg.evaluation.coco_results import batch_results
from roiseg.evaluation.ranking import RankedInstance, Ranking
from roiseg.evaluation.roi_prediction import Seen, Seer
from roiseg.metrics.average_precision import average_precision, truth_records
from roiseg.metrics.confusion import Confusion
from roiseg.metrics.instance import InstanceRecord, measure_instances
from roiseg.metrics.pixel import InstanceMetrics, PixelMetrics
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
        seer: the model.
        dataset: where truth comes from; with three classes.
        worst: how many instances to keep for a sheet.
        by_quality: masks are ranked by `mask_quality` for average precision; else as they come.
        category_id: of the annotations, and so of the results.
    """

    def __init__(
        self, seer: Seer, dataset: RoiDataset, worst: int = 20, by_quality: bool = True, category_id: int = 1
    ) -> None:
        self.seer = seer
        self.dataset = dataset
        self.by_quality = by_quality
        self.category_id = category_id
        self._pixels, self._instances = PixelMetrics(seer.num_classes), InstanceMetrics()
        self._classes, self._target = Confusion(seer.num_classes), Confusion(2)
        self._ranking = Ranking(1, worst)
        self._records: list[InstanceRecord] = []
        self._results: list[dict[str, Any]] = []
        self._sides: list[float] = []
        self._images: list[int] = []  # by index in the annotations

    def update(self, batch: RoiBatch) -> None:
        """Add a batch with its features, from an evaluation loader over the data set."""
        seen = self.seer.see(batch)
        self._count_cells(seen, batch.measured.cpu().long())
        records = measure_instances(seen.probabilities, batch, seen.windows)
        found = batch_results(seen.probabilities, batch, seen.windows, self.by_quality, self.category_id)
        results = list(found)
        self._instances.update(records)
        images = batch.rois[:, 0].long().tolist()
        for image, record, result in zip(images, records, results, strict=True):
            if self._ranking.wants(record):
                mask = result["segmentation"]
                mask = {**mask, "counts": mask["counts"].encode("ascii")}
                self._ranking.add(RankedInstance(record, batch.samples[image].image_index, mask))
        self._images += [sample.image_index for sample in batch.samples if not sample.skipped]
        self._records += records
        self._results += results
        width, height = (batch.rois[:, 3:] - batch.rois[:, 1:3]).double().cpu().unbind(dim=1)
        self._sides += (width * height).sqrt().tolist()

    def _count_cells(self, seen: Seen, truth: Tensor) -> None:
        classes = seen.classes.cpu()
        self._classes.update(classes, truth)
        self._target.update(seen.is_target.cpu(), truth)
        if self.seer.num_classes <= NON_TARGET:
            truth = truth.masked_fill(truth == NON_TARGET, BACKGROUND)
        self._pixels.update(classes, truth)

    def compute(self) -> Evaluation:
        """The figures over all batches so far."""
        figures = self._pixels.scalars() | self._instances.compute()
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
