import numpy as np
import pytest
from helpers import uncompressed_rle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from roiseg.geometry import rle

masks = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))
)


@given(masks)
def test_encoding_equals_pycocotools_and_decodes_back(mask):
    encoded = rle.encode(mask)
    assert encoded == coco_mask.encode(np.asfortranarray(mask))
    np.testing.assert_array_equal(rle.decode(encoded), mask.astype(bool))
    for other in (mask.astype(bool), np.asfortranarray(mask), mask[::-1][::-1], mask.astype(np.int64)):
        assert rle.encode(other) == encoded
    counts, size = encoded["counts"], list(mask.shape)
    for form in (uncompressed_rle(mask), encoded, {"size": size, "counts": counts.decode()}):
        assert rle.checked_counts(form, mask.shape) == counts


@pytest.mark.parametrize("counts", [
    [], [5], [4, 2, 7], [6, -6, 12], [-1, 13], [3, 3, 3, 3, 1], [12.0], ["12"], [None], [[12]],
    [True, 11], [2**32 + 12], [2**64, -(2**64), 12], [10**400],
    "é", "<é", "12ü", "\ud800", " ", "\0", "p", "<\n", "ooooooooo0",  # characters that no encoder writes
])  # fmt: skip
def test_counts_that_do_not_fit_the_image_are_refused(counts):
    with pytest.raises(ValueError, match="RLE"):
        rle.checked_counts({"size": [3, 4], "counts": counts}, (3, 4))


def test_more_pixels_than_a_run_can_count_are_refused():
    size = (1 << 16, 1 << 16)
    with pytest.raises(ValueError, match="32-bit"):
        rle.checked_counts({"size": list(size), "counts": [1 << 32]}, size)


def test_thousands_of_damaged_strings_never_crash():
    """One or two characters of a real encoding changed: the kind of damage that looks right."""
    rng = np.random.default_rng(0)
    survivors = 0
    for _ in range(2000):
        mask = np.asfortranarray(rng.random((9, 11)) < 0.3, np.uint8)
        counts = bytearray(coco_mask.encode(mask)["counts"])
        for _ in range(rng.integers(1, 3)):
            counts[rng.integers(len(counts))] = rng.integers(40, 120)
        try:
            checked = rle.checked_counts({"size": [9, 11], "counts": bytes(counts)}, (9, 11))
        except ValueError:
            continue
        survivors += 1
        assert rle.decode({"size": [9, 11], "counts": checked}).shape == (9, 11)
    assert survivors < 500  # almost all damage shows in the sum


@given(st.lists(masks, max_size=4))
def test_strings_end_to_end_give_the_runs_of_each(several):
    texts = [rle.encode(mask)["counts"] for mask in several]
    ends = np.cumsum([len(text) for text in texts])
    runs, first = rle.decompress(np.frombuffer(b"".join(texts), np.uint8), ends)
    assert len(first) == len(several) + 1
    for n, mask in enumerate(several):
        assert runs[first[n] : first[n + 1]].tolist() == uncompressed_rle(mask)["counts"]


def test_a_string_cut_within_a_number_is_refused_beside_sound_ones():
    text = rle.encode(np.eye(40, 50, dtype=np.uint8))["counts"]
    joined = np.frombuffer(text + text, np.uint8)
    cut = next(n for n, character in enumerate(text) if (character - 48) & 0x20)
    with pytest.raises(ValueError, match="middle of a number"):
        rle.decompress(joined, [cut + 1, 2 * len(text)])


@st.composite
def windows(draw):
    """A mask, and a window within it; some reach over the whole height or width, some are empty."""
    mask = draw(masks)
    limits = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in mask.shape]
    for limit, n in zip(limits, mask.shape, strict=True):
        if draw(st.booleans()):
            limit[:] = 0, n
    (y1, y2), (x1, x2) = limits
    return mask, (x1, y1, x2, y2)


@given(windows())
def test_a_window_is_encoded_and_decoded_as_part_of_the_whole_image(case):
    mask, (x1, y1, x2, y2) = case
    inner = mask[y1:y2, x1:x2] > 0
    whole = np.zeros_like(mask)
    whole[y1:y2, x1:x2] = inner
    got = rle.encode_window(inner, (x1, y1, x2, y2), mask.shape)
    assert got == coco_mask.encode(np.asfortranarray(whole))
    back = rle.decode_window(rle.encode(mask), (x1, y1, x2, y2))
    assert back.dtype == bool
    np.testing.assert_array_equal(back, inner)


@given(masks)
def test_bounds_hold_all_of_the_mask_and_no_more_columns(mask):
    x1, y1, x2, y2 = rle.bounds(rle.encode(mask))
    assert mask.sum() == mask[y1:y2, x1:x2].sum()
    assert 0 <= x1 <= x2 <= mask.shape[1] and 0 <= y1 <= y2 <= mask.shape[0]
    if mask.any():
        assert mask[:, x1].any() and mask[:, x2 - 1].any()
