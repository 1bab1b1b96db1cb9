"""Output of the measurements: a table and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence

import torch
from rich.table import Table

from roiseg.common.console import console


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """Print a table (first column left, the rest right), and a note under it."""
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def machine() -> str:
    """Describe the machine: cores, processor, torch and its threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    return f"{cores} cores ({processor}), torch {torch.__version__}, {torch.get_num_threads()} threads"
