import numpy as np
import pytest

from benchmarks.targets import SPECS, as_rle, exact, looked_up, ours, scenes, straight, usual, wrong
from roiseg.data.annotation_loading import load_annotations

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets(coco_set):
    annotations = load_annotations(coco_set.json)
    polygons = [scene for scene in scenes(annotations) if not len(scene.outlines.runs)]
    return {"polygons": polygons, "RLE": scenes(as_rle(annotations))}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", ["polygons", "RLE"])
def test_our_targets_are_exact_and_the_usual_ones_near(sets, spec, kind):
    truth = [exact(spec, scene) for scene in sets[kind]]
    assert sum(inside.sum() for inside, _ in truth) > 1000
    assert wrong(ours, spec, sets[kind], truth) == 0
    assert 0 < wrong(usual, spec, sets[kind], truth) < 0.2


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_ways_label_alike(sets, spec):
    for scene in sets["RLE"]:
        np.testing.assert_array_equal(ours(spec, scene), looked_up(spec, scene))
    for scene in sets["polygons"]:
        assert (ours(spec, scene) != straight(spec, scene, finer=3)).mean() < 0.01
        assert (ours(spec, scene) != usual(spec, scene)).mean() < 0.1
