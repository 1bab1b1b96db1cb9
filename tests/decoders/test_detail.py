"""The detail branch: logits corrected by the image underneath."""

import torch
from tiny_run import with_random_weights
from torch.nn import functional as F

from roiseg.decoders.layers.extra_inputs import DetailBranch

WINDOWS = torch.tensor([[0.0, 8, 4, 40, 36], [1, 0, 0, 64, 48], [1, 30, 10, 62, 42]])


def make(classes=3, width=6, seed=0):
    torch.manual_seed(seed)
    return DetailBranch(classes, width)


def picture(images=2, seed=0):
    return torch.rand(images, 3, 48, 64, generator=torch.Generator().manual_seed(seed))


def coarse_logits(classes=3, seed=0):
    coarse = torch.randn(3, classes, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)


def test_logits_start_out_almost_unchanged():
    logits = coarse_logits()
    corrected = make(width=16)(logits, picture(), WINDOWS)
    assert corrected.shape == logits.shape
    assert (corrected.softmax(1) - logits.softmax(1)).abs().max() < 0.12
    assert (corrected - logits).abs().mean() < 0.15


def test_a_logit_depends_on_the_pixels_around_it_in_its_own_window_only():
    branch, logits = with_random_weights(make(), 0.3, seed=1), coarse_logits()
    branch.colors = torch.nn.Identity()  # whose statistics, like those of the GroupNorms,
    branch.read[1] = branch.mix[1] = torch.nn.Identity()  # are of the whole crop
    image = picture()
    changed = image.clone()
    changed[1, :, 11, 31] += 1  # within the windows of the second and the third ROI
    moved = (branch(logits, changed, WINDOWS) - branch(logits, image, WINDOWS)).abs().amax(dim=1) > 1e-6
    assert not moved[0].any()
    cells = [
        (int((11 - y1) * 16 / (y2 - y1)), int((31 - x1) * 16 / (x2 - x1)))
        for _, x1, y1, x2, y2 in WINDOWS.tolist()
    ]
    for number in (1, 2):
        assert moved[number].any()
        rows, columns = moved[number].nonzero().T
        assert (rows - cells[number][0]).abs().max() <= 3  # two 3x3 convolutions and a bilinear sample
        assert (columns - cells[number][1]).abs().max() <= 3


def test_an_edge_of_the_picture_is_learned_that_the_logits_do_not_know():
    """Logits say the same everywhere; the truth ends at a bright edge, at another place in each crop."""
    branch = make(classes=2, width=8)
    edges = [20, 30, 50]
    image = torch.full((3, 3, 48, 64), 0.2)
    for number, x in enumerate(edges):
        image[number, :, :, x:] = 0.9
    windows = torch.tensor([[n, 0.0, 0, 64, 48] for n in range(3)])
    logits = torch.zeros(3, 2, 24, 32)
    truth = torch.stack([(torch.arange(32) * 2 >= x).long().expand(24, 32) for x in edges])
    optimizer = torch.optim.Adam(branch.parameters(), lr=0.02)
    before = F.cross_entropy(branch(logits, image, windows), truth).item()
    for _ in range(30):
        loss = F.cross_entropy(branch(logits, image, windows), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * before
    assert (branch(logits, image, windows).argmax(1) == truth).float().mean() > 0.98


def test_windows_that_rois_share_are_read_once_and_equal_a_window_for_each():
    branch, logits = with_random_weights(make(), 0.3, seed=1), coarse_logits()
    rows = torch.tensor([0, 2, 2])
    shared = branch(logits, picture(), WINDOWS, rows)
    torch.testing.assert_close(shared, branch(logits, picture(), WINDOWS[rows]), atol=1e-5, rtol=1e-5)
