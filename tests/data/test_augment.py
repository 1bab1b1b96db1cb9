import random

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from helpers import mask_bounds
from hypothesis import assume, given
from hypothesis import strategies as st

from roiseg.data.augment import GeometricAugment, PhotometricAugment
from roiseg.geometry.transform import Letterbox

geometries = st.builds(
    GeometricAugment, flip=st.sampled_from([0.0, 0.5, 1.0]), aspect=st.sampled_from([0.0, 0.3]),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (1.5, 1.5), (0.7, 0.8)]), shift=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
SIZES, ALIGNS = st.sampled_from([(96, 96), (64, 128)]), st.sampled_from(["center", "topleft"])
letterboxes = st.builds(Letterbox, SIZES, ALIGNS)
stretched = st.builds(Letterbox, st.just((120, 72)), keep_aspect=st.just(False))
seeds, sides = st.integers(0, 2**32 - 1), st.integers(40, 300)


@given(geometries, letterboxes | stretched, sides, sides, seeds)
def test_the_picture_agrees_with_the_boxes(augment, letterbox, height, width, seed):
    rng = np.random.default_rng(seed)
    transform = augment.sample(letterbox, (height, width), rng)
    x1, x2 = sorted(rng.choice(width + 1, 2, replace=False))
    y1, y2 = sorted(rng.choice(height + 1, 2, replace=False))
    want = transform.boxes([[x1, y1, x2, y2]])[0]
    assume((want[2:] - want[:2] >= 4).all() and x2 - x1 >= 4 and y2 - y1 >= 4)
    limits = np.array([letterbox.size[1], letterbox.size[0]] * 2)
    seen = np.clip(want, 0, limits)
    assume((seen[2:] - seen[:2] >= 3).all())
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    bright = letterbox.apply(image, transform)[..., 0] > 127
    np.testing.assert_allclose(mask_bounds(bright), seen, atol=1.01)


@given(geometries, letterboxes, st.integers(1, 400), st.integers(1, 400), seeds)
def test_zoom_aspect_and_shift_stay_within_their_bounds(augment, letterbox, height, width, seed):
    transform = augment.sample(letterbox, (height, width), np.random.default_rng(seed))
    fit = letterbox.fit(height, width)
    new_w, new_h = abs(transform.scale_x) * width, transform.scale_y * height
    low, high = augment.scale
    assert fit.scale_y * height * low - 1 <= new_h <= fit.scale_y * height * high + 1
    assert fit.scale_x * width * low / (1 + augment.aspect) - 1 <= new_w
    assert new_w <= fit.scale_x * width * high * (1 + augment.aspect) + 1
    x1, y1, x2, y2 = transform.boxes([[0, 0, width, height]])[0]
    for start, end, out in ((x1, x2, letterbox.size[1]), (y1, y2, letterbox.size[0])):
        room = out - (end - start)
        middle, reach = room / 2, abs(room) / 2 * augment.shift
        assert middle - reach - 1 <= start <= middle + reach + 1
        assert start == pytest.approx(round(float(start)), abs=1e-3)  # whole pixels


def test_no_change_asked_for_is_the_plain_letterbox():
    augment = GeometricAugment(flip=0, shift=0)
    letterbox = Letterbox((64, 64))
    for size in [(64, 64), (32, 64), (64, 20), (480, 640)]:
        assert augment.sample(letterbox, size, np.random.default_rng(0)) == letterbox.fit(*size)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_views_are_mirrored_as_often_as_asked_and_zoom_is_even_on_a_logarithmic_scale(share):
    augment, letterbox = GeometricAugment(flip=share, scale=(0.5, 2.0)), Letterbox((600, 600))
    rng = np.random.default_rng(0)
    views = [augment.sample(letterbox, (600, 600), rng) for _ in range(3000)]
    assert np.mean([view.scale_x < 0 for view in views]) == pytest.approx(share, abs=0.03)
    zooms = np.array([view.scale_y for view in views])
    assert np.mean(zooms < 1) == pytest.approx(0.5, abs=0.03)
    assert (zooms.min(), zooms.max()) == pytest.approx((0.5, 2.0), abs=0.02)


@pytest.fixture(scope="module")
def photometric():
    blur = K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5)
    noise = K.RandomGaussianNoise(std=0.05, p=0.5)
    return PhotometricAugment([K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.8), blur, noise])


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3)).astype(np.uint8)


def test_a_seed_alone_decides_and_global_random_states_are_left_alone(photometric, picture, monkeypatch):
    first = photometric(picture, 5)
    torch.manual_seed(99)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded every GPU"))
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert (photometric(picture, 6) != first).any()
    np.testing.assert_array_equal(photometric(picture, 5), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_shape_type_and_the_picture_handed_in_are_kept(photometric, picture):
    before = picture.copy()
    result = photometric(picture[:, ::-1], 1)  # a mirrored view has negative strides
    assert result.shape == picture.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)


def test_values_are_cut_to_the_range_of_a_picture(picture):
    class Brighter(torch.nn.Module):
        def forward(self, image):
            return image * 3 - 0.5

    want = np.clip(np.round(picture.astype(float) * 3 - 127.5), 0, 255)
    np.testing.assert_allclose(PhotometricAugment([Brighter()])(picture, 0), want, atol=1)
