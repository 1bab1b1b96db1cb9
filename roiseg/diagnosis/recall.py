"""Check that the detector finds the annotated boxes: a miss hints at preprocessing, head or labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roiseg.data.batch import collate
from roiseg.data.datamodule import RoiDataModule
from roiseg.diagnosis.finding import Finding
from roiseg.geometry.boxes import iou

_ABOUT = "detector's boxes"
_ENOUGH = 1 / 3  # of the annotated boxes; a small detector misses small persons
_FOUND = 0.5  # IoU


def recall(data: RoiDataModule, images: int = 20) -> Iterator[Finding]:
    """Run the detector on some validation images and count the annotated boxes it finds.

    Args:
        data: ready to be used.
        images: how many.
    """
    extractor = data.extractor
    if extractor.postprocess is None:
        text = "not read (extractor.postprocess is null): training works without, prediction needs boxes=FILE"
        yield Finding(_ABOUT, "note", text, "for example postprocess@extractor.postprocess=yolo")
        return
    extractor.postprocess.plausibility.reported = True  # here, by a finding
    items = np.unique(np.linspace(0, len(data.dataset("val")) - 1, images).astype(int)).tolist()
    samples = data.samples("val", items)
    found = annotated = 0
    for sample in samples:
        inputs = extractor.preprocess(collate([sample]).images)
        _, (detections,) = extractor.run_with_detections(inputs)
        overlap = iou(sample.rois, detections.boxes)
        found += int((overlap.max(axis=1, initial=0) >= _FOUND).sum())
        annotated += len(sample.rois)
    text = f"{found} of {annotated} annotated boxes in {len(samples)} images found (IoU {_FOUND} or more)"
    good = found >= _ENOUGH * annotated
    yield Finding(_ABOUT, "ok" if good else "warning", text, "" if good else (
        "check extractor.preprocess (color, divisor, mean, std, align) and extractor.postprocess (labels)"
    ))  # fmt: skip
    reader = extractor.postprocess
    for doubt in (reader.plausibility.warning, reader.label_warning(data.category_id)):
        if doubt and not good:  # the detector finds them, so its output is read correctly
            yield Finding(_ABOUT, "warning", doubt)
