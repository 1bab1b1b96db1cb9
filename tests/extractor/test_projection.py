"""Projection of features to principal components: the mathematics, and its file."""

import numpy as np
import pytest
import torch

from roiseg.extractor.projection import (
    Moments,
    Projection,
    principal_components,
    projection_of,
    read_projection,
    write_projection,
)


def maps(images=6, channels=8, seed=0):
    """Feature maps whose channels are correlated and far from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator)
    values = torch.randn(images, channels, 5, 4, generator=generator)
    return torch.einsum("dc,nchw->ndhw", mixing, values) + 50


def test_components_are_those_of_numpy_whatever_the_batches():
    features = maps()
    cells = features.movedim(1, -1).reshape(-1, 8).double().numpy()
    _, singular, expected = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    for sizes in ([6], [1] * 6, [4, 2]):
        (found,) = principal_components(([part] for part in features.split(sizes)), [8])
        np.testing.assert_allclose(found.variances, singular**2 / len(cells), rtol=1e-4)
        np.testing.assert_allclose(found.mean, cells.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(np.abs((found.vectors.numpy() * expected).sum(axis=1)), 1, atol=1e-4)
        assert found.kept(8) == pytest.approx(1) and found.kept(3) < found.kept(4)


def test_projection_keeps_the_variance_it_names_and_is_uncorrelated():
    features = maps()
    components = principal_components([[features]], [8])
    (small,) = projection_of(components, 3)([features])
    cells = small.movedim(1, -1).reshape(-1, 3).double()
    assert cells.mean(dim=0).abs().max() < 1e-3
    covariance = cells.T @ cells / len(cells)
    torch.testing.assert_close(covariance, torch.diag(components[0].variances[:3]), rtol=1e-3, atol=1e-2)


def test_layers_with_few_channels_and_projected_features_pass_unchanged():
    features = [maps(), maps(channels=3)]
    projection = projection_of(principal_components([features], [8, 3]), 4)
    small = projection(features)
    assert [feature.shape[1] for feature in small] == [4, 3] and small[1] is features[1]
    assert all(a is b for a, b in zip(projection(small), small, strict=True))
    assert not list(projection.parameters())


def test_stored_projection_is_found_again_and_a_damaged_one_is_not_used(tmp_path, caplog):
    projection = projection_of(principal_components([[maps()]], [8]), 3)
    path = tmp_path / "projection.pt"
    assert read_projection(path, [8], 3) is None
    write_projection(path, projection)
    found = read_projection(path, [8], 3)
    assert found.digest == projection.digest != Projection([8], 3).digest
    assert read_projection(path, [8], 4) is None  # other shapes
    path.write_bytes(path.read_bytes()[:-100])
    caplog.clear()
    assert read_projection(path, [8], 3) is None
    assert f"{path} is damaged" in caplog.text
    write_projection(path, projection)
    assert read_projection(path, [8], 3) is not None


def moments_of(features, channels=(8,)):
    moments = Moments(channels)
    for part in features:
        moments.add([part[None]])
    return moments


def assert_same(components, others):
    for a, b in zip(components, others, strict=True):
        assert torch.equal(a.vectors, b.vectors) and torch.equal(a.mean, b.mean)


def test_stored_sums_resume_to_the_same_bytes(tmp_path):
    features, path = maps(), tmp_path / "state.npz"
    moments_of(features[:4]).write(path, "key", 4)
    resumed = Moments([8])
    assert resumed.read(path, "key") == 4
    for part in features[4:]:
        resumed.add([part[None]])
    assert_same(resumed.components(), moments_of(features).components())


@pytest.mark.parametrize(("key", "channels"), [("other", [8]), ("key", [7]), ("key", [8, 8])])
def test_sums_of_something_else_are_ignored_with_one_line(key, channels, tmp_path, caplog):
    moments_of(maps()).write(tmp_path / "state.npz", "key", 6)
    assert Moments(channels).read(tmp_path / "state.npz", key) == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/state.npz is damaged, or of other features, and ignored"
    ]


@pytest.mark.parametrize("spoil", [lambda b: b[:-40], lambda b: b[:700] + b"!" + b[701:]])
def test_damaged_sums_are_ignored_and_replaced(spoil, tmp_path, caplog):
    path, moments = tmp_path / "state.npz", moments_of(maps())
    moments.write(path, "key", 6)
    path.write_bytes(spoil(path.read_bytes()))
    assert Moments([8]).read(path, "key") == 0 and len(caplog.records) == 1
    moments.write(path, "key", 6)
    assert Moments([8]).read(path, "key") == 6
