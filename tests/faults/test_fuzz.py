"""Generated annotation files, boxes and run-length strings: success or a UserError, nothing else.

`ROISEG_FUZZ=20000 pytest tests/faults/test_fuzz.py` runs so many cases of each test, other ones every time; the
test suite a few hundred, the same ones every time.
"""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
from faults.bad_annotations import SOUND
from helpers import user_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from roiseg.common.errors import UserError
from roiseg.config.entry import user_message
from roiseg.data.analysis import analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.prepare.persons import person_only
from roiseg.data.scene_composer import SceneComposer
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry import rle
from roiseg.geometry.transform import Letterbox

CASES = int(os.environ.get("ROISEG_FUZZ", "0"))
fuzz = settings(
    max_examples=CASES or 300,
    derandomize=not CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if CASES else 600)]

SIZE = (64, 64)
SPECS = [TargetSpec("roi", (7, 9), 3, SIZE), TargetSpec("image", (16, 16), 2, SIZE)]

whole = st.integers(-3, 12) | st.integers() | st.sampled_from([2**31, 2**32, 2**63, -(2**63), 10**400])
number = st.floats(-30, 120) | st.integers(-5, 90) | st.floats() | whole
scalar = st.none() | st.booleans() | number | st.text(max_size=4)
junk = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
polygon = st.lists(number, max_size=16) | st.lists(st.floats(-30, 120), min_size=6, max_size=12) | junk
runs = st.lists(st.integers(0, 5120) | whole, max_size=6) | st.lists(scalar, max_size=4)
letters = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12) | st.text(max_size=6)
encoded = st.fixed_dictionaries(
    {},
    optional={
        "size": st.just([64, 80]) | st.lists(whole, max_size=3) | junk,
        "counts": runs | letters | junk,
    },
)
outline = st.lists(polygon, max_size=3) | encoded | junk
box = st.lists(number, min_size=4, max_size=4) | st.lists(st.floats(-30, 120), min_size=4, max_size=4) | junk
side = st.just(64) | st.integers(1, 200) | whole | junk
identity = st.integers(0, 9) | whole | junk

image_fields = {
    "id": identity, "width": side, "height": side, "file_name": st.text(max_size=8) | junk, "pixel_size_um": number | junk,
}  # fmt: skip
person_fields = {
    "id": identity, "image_id": st.sampled_from([7, 8]) | junk, "category_id": st.just(1) | junk, "bbox": box,
    "iscrowd": st.integers(0, 1) | junk, "segmentation": outline,
}  # fmt: skip


@st.composite
def contents(draw):
    """The sound file with a few of its values replaced."""
    content = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        key, fields = draw(st.sampled_from([("images", image_fields), *[("annotations", person_fields)] * 4]))
        field = draw(st.sampled_from(sorted(fields)))
        content[key][draw(st.integers(0, 1))][field] = draw(fields[field])
    for key in (
        draw(st.sets(st.sampled_from(["images", "annotations"]), max_size=1))
        if draw(st.integers(0, 9)) == 0
        else ()
    ):
        content[key] = draw(junk)
    return content


@st.composite
def damaged(draw):
    """The bytes of a sound file, some of them replaced, removed or repeated."""
    text = bytearray(json.dumps(SOUND).encode())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 6)))
        text[start:end] = draw(
            st.binary(max_size=3) | st.sampled_from([b",", b"[", b"}", b'"', b"-", b"e9", b"NaN", b"1"])
        )
    return bytes(text)


def use(annotations, folder):
    """Draw the targets and masks of all instances, and count their pixels."""
    scenes = SceneComposer(annotations, folder, 1)
    for index in range(len(annotations)):
        scene = scenes.plain(index)
        transform = Letterbox(SIZE).fit(*annotations.size(index))
        boxes = transform.boxes(scene.boxes)[scene.eligible]
        assert np.isfinite(boxes).all()
        for spec in SPECS:
            targets = rasterize_targets(spec, scene.outlines, scene.crowd, transform, boxes, scene.eligible)
            assert targets.shape == (len(boxes), *spec.size)
        for position in range(len(scene.outlines)):
            mask = scene.outlines.rle(position)
            assert list(mask["size"]) == list(annotations.size(index))
            assert 0 <= coco_mask.area(mask) <= np.prod(mask["size"])
    if annotations.eligible_counts(1).any():
        analyze(annotations, 1, 8)


def check(path, folder):
    """Success, or one line; whichever, the index that a first reading leaves changes nothing."""
    lines = []
    for index in (None, folder / "index", folder / "index"):
        try:
            use(load_annotations(path, index_dir=index), folder)
            lines.append("")
        except UserError as error:
            lines.append(user_message(error))
            assert path.name in lines[-1]
            assert lines[-1].isprintable()
    assert len(set(lines)) == 1


@fuzz
@given(contents())
def test_any_content(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    check(path, tmp_path)


@fuzz
@given(damaged())
def test_any_damage(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    check(path, tmp_path)


@fuzz
@given(contents())
def test_any_content_is_prepared_or_refused(content):
    content["categories"] = [{"id": 1, "name": "person"}]
    line = user_error(person_only, content, "x.json")
    assert not line or "x.json" in line


@fuzz
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
    mask = coco_mask.decode({"size": list(size), "counts": taken})
    np.testing.assert_array_equal(
        rle.decode_window({"size": list(size), "counts": taken}, (0, 0, size[1], size[0])), mask
    )
    if isinstance(counts, list):
        want = np.repeat(np.arange(len(counts)) % 2, counts)
        np.testing.assert_array_equal(mask.T.ravel(), want)
