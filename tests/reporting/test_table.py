import csv
import io
import re

import pytest
from run_folders import cross_validated, noisy, rois, write_run

from roiseg.common.console import console
from roiseg.reporting import tables as table
from roiseg.reporting.compare import compare
from roiseg.reporting.runs import read_runs
from roiseg.reporting.variants import check_comparable, find_variants

TWO, THREE = "model.num_classes=2", "model.num_classes=3"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    variants = {THREE: (0.6, {}), TWO: (0.64, {"model__num_classes": 2}), "loss=a|b": (0.6, {"loss__x": 1})}
    cross_validated(folder, variants, folds=(0, 1))
    runs, _ = read_runs([folder])
    return compare(find_variants(runs)[0], check_comparable(runs), tested=["test/miou"], resamples=500)


def all_columns(rows):
    return [*table.figures("instance_iou"), *table.differences(), *table.more(rows[0], "iou", sizes=True)]


def test_markdown_holds_the_rounded_figures(rows):
    text = table.markdown(all_columns(rows), rows, ["One.", "Two."])
    lines = text.splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:5]]
    assert {len(line) for line in cells} == {len(all_columns(rows)) + 1}
    assert all(set(cell) <= {"-", ":"} for cell in cells[1])
    by_name = dict(zip(cells[0], cells[3], strict=True))
    two, difference = rows[1], rows[1].difference.overall
    assert by_name["variant"] == f"`{TWO}`"
    assert by_name["folds × seeds"] == "2 × 2"
    assert by_name["ROIs"] == "36"
    assert by_name["instance IoU"] == f"{two.overall.mean:.3f}"
    assert by_name["crowded"] == f"{two.crowded.mean:.3f} (12)"
    assert by_name["difference"] == f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    assert by_name["verdict"] == "better"
    assert by_name["parameters"] == "1,000"
    assert by_name["miou"] == "0.500"
    assert cells[4][0] == r"`loss=a\|b`"
    assert dict(zip(cells[0], cells[2], strict=True))["difference"] == "–"
    assert lines[5:] == ["", "One. Two."]


def test_the_csv_holds_every_figure_unrounded(rows):
    records = [table.record(row, "instance_iou") for row in rows]
    read = list(csv.DictReader(io.StringIO(table.csv_text(records))))
    assert len(read) == 3
    for found, row, record in zip(read, rows, records, strict=True):
        assert found["variant"] == row.variant.name
        for name, value in record.items():
            if value is None:
                assert found[name] == ""
            elif isinstance(value, str):
                assert found[name] == value
            else:
                assert float(found[name]) == value
        assert float(found["mean"]) == row.overall.mean
        assert int(found["small_rois"]) == row.sizes["small"][0] == 12
    assert float(read[1]["difference_crowded_low"]) == rows[1].difference.crowded.low
    assert read[0]["difference_mean"] == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_lost_in_a_narrow_window(rows, capsys, monkeypatch, width):
    monkeypatch.setattr(console, "_width", width)
    table.print_table("title", all_columns(rows), rows)
    printed = capsys.readouterr().out
    assert "…" not in printed
    for row in rows:
        for name, cell in all_columns(rows):
            assert cell(row).split()[0] in printed, name


def test_incomplete_crosses_and_unlike_decoders_are_shown(tmp_path):
    for number, (fold, seed, parameters) in enumerate([(0, 1, 7), (0, 2, 9), (1, 1, 7)]):
        calm = [row | {"non_target_share": 0} for row in rois(fold)]
        counts = {"parameters": {"total": 9, "trainable": parameters, "frozen": 0}}
        write_run(tmp_path / str(number), noisy(0.5), seed, fold, rows=calm, summary=counts)
    runs, _ = read_runs([tmp_path])
    (row,) = compare(find_variants(runs)[0], check_comparable(runs), resamples=100)
    shown = {name: cell(row) for name, cell in all_columns([row])}
    assert shown["folds × seeds"] == "2 × 2 (3 runs)"
    assert shown["parameters"] == "7 to 9"
    assert (shown["± seeds"], shown["crowded"], shown["difference"], shown["pairs"]) == ("–", "–", "–", "–")
