"""Generated run lengths: the mask that pycocotools reads, or a ValueError.

`ROISEG_FUZZ=20000 pytest tests/faults/test_fuzz.py` runs so many cases, other ones every time; `tools.fuzz` does so
for whole files.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from roiseg.geometry import rle

CASES = int(os.environ.get("ROISEG_FUZZ", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if CASES else 600)]

whole = st.integers(-3, 12) | st.integers() | st.sampled_from([2**31, 2**32, 2**63, -(2**63), 10**400])
scalar = st.none() | st.booleans() | st.floats() | whole | st.text(max_size=4)
junk = st.lists(scalar, max_size=4) | st.dictionaries(st.text(max_size=3), scalar, max_size=3) | scalar
runs = st.lists(st.integers(0, 5120) | whole, max_size=6)
letters = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12) | st.text(max_size=6)


@settings(max_examples=CASES or 300, derandomize=not CASES)
@given(
    runs | letters | st.binary(max_size=12) | junk,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.booleans(),
)
def test_any_run_lengths(counts, size, fits):
    if fits and isinstance(counts, list):
        counts = [abs(c) % 40 if isinstance(c, int) else c for c in counts]
        filled = sum(c for c in counts if isinstance(c, int))
        size = (1, max(1, filled))
    try:
        taken = rle.checked_counts({"size": list(size), "counts": counts}, size)
    except ValueError:  # what the loader words as a UserError
        return
    encoded = {"size": list(size), "counts": taken}
    mask = coco_mask.decode(encoded)
    np.testing.assert_array_equal(rle.decode_window(encoded, (0, 0, size[1], size[0])), mask)
    if isinstance(counts, list):
        want = np.repeat(np.arange(len(counts)) % 2, counts)
        np.testing.assert_array_equal(mask.T.ravel(), want)
