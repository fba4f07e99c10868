"""Operations on images: exact boxes, exact labels, honest views."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

from ptq.calibration.objectives import total_variation
from ptq.data.image_ops import Box, augment, low_pass, mix, pink_noise, random_box, resize, scaled_size, view
from ptq.data.preprocess import Preprocess


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.integers(4, 64), st.integers(4, 64))
def test_the_label_share_is_the_area_of_the_box(seed: int, height: int, width: int) -> None:
    box = random_box((height, width), seeded(seed))
    zeros, ones = torch.zeros(1, 3, height, width), torch.ones(1, 3, height, width)
    mixed = mix(zeros, ones, box)
    assert float(mixed.mean()) == pytest.approx(box.share(zeros), abs=1e-6)
    assert min(box.top, box.left) >= 0
    assert box.top + box.height <= height and box.left + box.width <= width


def test_boxes_reach_the_whole_image_and_their_area_the_whole_range() -> None:
    generator = seeded(0)
    covered, shares = torch.zeros(32, 32), []
    for _ in range(300):
        box = random_box((32, 32), generator, area=(0.1, 0.5))
        covered[box.top : box.top + box.height, box.left : box.left + box.width] = 1
        shares.append(box.share(covered))
    assert covered.any(0).all() and covered.any(1).all()
    assert min(shares) < 0.15 and max(shares) > 0.45


def test_the_box_holds_the_whole_partner_and_the_rest_is_untouched() -> None:
    images, partners = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    before = images.clone()
    mixed = mix(images, partners, Box(4, 2, 8, 8))
    expected = resize(partners, (8, 8))
    torch.testing.assert_close(mixed[:, :, 4:12, 2:10], expected)
    mixed[:, :, 4:12, 2:10] = images[:, :, 4:12, 2:10]
    assert torch.equal(mixed, images) and torch.equal(images, before)


def test_mixing_passes_gradients_to_both_images() -> None:
    images, partners = (torch.rand(2, 3, 16, 16, requires_grad=True) for _ in range(2))
    torch.autograd.backward(mix(images, partners, Box(4, 2, 8, 8)).sum())
    assert images.grad is not None and partners.grad is not None
    assert float(images.grad[0, 0].sum()) == 16 * 16 - 64
    assert float(partners.grad[0, 0].sum()) == pytest.approx(64, rel=1e-5)


def test_augmentation_moves_pixels_and_invents_none() -> None:
    images, generator = torch.rand(2, 3, 16, 12), seeded(3)
    results = [augment(images, 0.25, generator) for _ in range(20)]
    for result in results:
        assert torch.equal(result.flatten().sort().values, images.flatten().sort().values)
    assert len({tuple(r.flatten().tolist()) for r in results}) > 10
    assert torch.equal(augment(images, 0, seeded(0)), images) or torch.equal(
        augment(images, 0, seeded(0)), images.flip(-1)
    )


def test_every_network_sees_its_own_size_and_colors() -> None:
    images = torch.full((2, 3, 32, 32), 0.5)
    preprocess = Preprocess((48, 40), 48, "bilinear", (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    seen = view(images, preprocess)
    assert seen.shape == (2, 3, 48, 40)
    assert view(images, preprocess, 0.5).shape == (2, 3, 24, 20)
    torch.testing.assert_close(seen[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.5]))


def test_the_noise_to_start_from_has_large_shapes_and_is_mostly_gray() -> None:
    pink = pink_noise(16, (32, 24), seeded(0))
    assert pink.shape == (16, 3, 32, 24)
    assert float(pink.min()) >= 0 and float(pink.max()) <= 1
    white = (0.45 + 0.22 * torch.randn(16, 3, 32, 24, generator=seeded(0))).clamp(0, 1)
    assert float(total_variation(pink)) < 0.7 * float(total_variation(white))
    assert float(F.avg_pool2d(pink, 8).std()) > 3 * float(F.avg_pool2d(white, 8).std())
    red, green = pink[:, 0].flatten(), pink[:, 1].flatten()
    assert float(torch.corrcoef(torch.stack([red, green]))[0, 1]) > 0.8


def test_low_pass_weighs_a_frequency_as_its_formula_says() -> None:
    x = torch.arange(32.0)
    for cycles in (0, 4, 12):
        wave = torch.cos(2 * torch.pi * cycles * x / 32).expand(1, 3, 8, 32)
        expected = math.exp(-((cycles / 32) ** 2) / (2 * 0.2**2)) * wave
        torch.testing.assert_close(low_pass(wave, 0.2), expected, atol=1e-5, rtol=0)


def test_low_pass_keeps_odd_sizes() -> None:
    assert low_pass(torch.rand(2, 3, 7, 9), 0.3).shape == (2, 3, 7, 9)


def test_images_that_are_not_flipped_keep_their_sides() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert all(torch.equal(augment(images, 0.0, seeded(s), flip=False), images) for s in range(8))


def test_half_a_size_is_whole_pixels() -> None:
    assert scaled_size((33, 1), 0.5) == (16, 1)
