"""Convert COCO 2017 to the person-only layout that training reads."""

from roiseg.data.prepare.build import Prepared, prepare
from roiseg.data.prepare.persons import SPLITS, Layout

__all__ = ["SPLITS", "Layout", "Prepared", "prepare"]
