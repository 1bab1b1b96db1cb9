"""`instances.csv`: one row an instance of a test."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from roiseg.common.files import atomic_path, open_text
from roiseg.training.instances import InstanceRecord


def write_table(path: Path, records: Iterable[InstanceRecord]) -> None:
    """Write records as csv, sorted by image and annotation, whole or not at all.

    The columns are those of `InstanceRecord`; boxes are rounded to a thousandth of a pixel.
    """
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(InstanceRecord._fields)
        for record in sorted(records, key=lambda r: (r.image_id, r.annotation_id)):
            box = {side: round(getattr(record, side), 3) for side in ("x1", "y1", "x2", "y2")}
            writer.writerow(record._replace(**box))
