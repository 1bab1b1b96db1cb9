"""The table of figures, of the checkout it runs in."""

import re

import pytest

from tools import house


@pytest.mark.slow
def test_every_figure_is_printed_and_a_step_is_part_of_a_run(capsys):
    house.main()
    rows = re.findall(r"^\| (.+?) \| ([\d.,; ]+) \|$", capsys.readouterr().out, re.M)
    assert len(rows) == 9
    step, run = (int(value.split(";")[0]) for label, value in rows if label.startswith("files run by"))
    assert 10 < step < run
