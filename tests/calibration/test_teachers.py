"""Teachers: who makes which batch, and strides that swing: other pixels each time, and gone afterwards."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from ptq.calibration.teachers import batch_count, swing, teacher_groups

HOW = ("halves", "turns", "sum")


@given(st.lists(st.booleans(), max_size=6), st.sampled_from(HOW))
def test_every_teacher_has_a_share_and_every_group_one_that_knows_the_classes(others: list[bool], how: str) -> None:
    knowing = [True, *others]  # the first says which classes there are
    groups = teacher_groups(knowing, how)
    assert {member for group in groups for member in group} == set(range(len(knowing)))
    assert all(any(knowing[member] for member in group) for group in groups)


@pytest.mark.parametrize("how", HOW)
def test_one_teacher_makes_all(how: str) -> None:
    assert teacher_groups([True], how) == [[0]]


def test_only_halves_leave_the_first_alone() -> None:
    assert teacher_groups([True, True, False], "halves") == [[0], [1, 2]]
    assert teacher_groups([True, True, False], "turns") == teacher_groups([True, True, False], "sum") == [[0, 1, 2]]


@given(st.integers(1, 2000), st.integers(2, 256), st.integers(1, 2))
def test_batches_are_no_larger_than_allowed_and_as_many_from_each_group(images: int, batch: int, groups: int) -> None:
    count = batch_count(images, batch, groups)
    assert 1 <= count <= images and -(-images // count) <= batch
    assert count % groups == 0 or count == images
    assert count < images / batch + groups  # and no more than it takes


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
