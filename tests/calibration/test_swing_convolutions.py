"""Swinging strides: other pixels each time, within one pixel, and gone afterwards."""

import torch
from torch import nn

from ptq.calibration.swing_convolutions import swing


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_strided_convolution_sees_its_input_shifted_by_at_most_a_pixel() -> None:
    net = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    nn.init.ones_(net.weight)
    x = torch.arange(64.0).view(1, 1, 8, 8)
    plain, seen = net(x), set()
    with swing(net, seeded(0)):
        for _ in range(60):
            moved = net(x)
            seen.add(float((moved - plain).detach()[0, 0, 1, 1]))
            assert moved.shape == plain.shape
    assert seen == {float(8 * down + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert torch.equal(net(x), plain)


def test_every_pixel_gets_a_gradient() -> None:
    net = nn.Conv2d(3, 4, 1, stride=2)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    with swing(net, seeded(0)):
        total = torch.stack([net(x).sum() for _ in range(40)]).sum()
    (gradient,) = torch.autograd.grad(total, x)
    assert bool((gradient != 0).all())
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert float((gradient != 0).float().mean()) == 0.25


def test_other_convolutions_stay_and_the_generator_decides() -> None:
    x = torch.randn(1, 3, 8, 8)
    still, strided = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2)
    with swing(still, seeded(0)):
        assert torch.equal(still(x), still(x))
    outputs = []
    for _ in range(2):
        with swing(strided, seeded(5)):
            outputs.append(torch.stack([strided(x) for _ in range(4)]))
    assert torch.equal(*outputs)


def test_maps_of_one_pixel_are_left_alone() -> None:
    net = nn.Conv2d(2, 2, 1, stride=2)
    with swing(net, seeded(0)):
        assert net(torch.ones(1, 2, 1, 1)).shape == (1, 2, 1, 1)
