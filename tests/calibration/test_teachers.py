"""Who makes which batch."""

import pytest
from hypothesis import given, strategies as st

from ptq.calibration.teachers import batch_count, scaled, shares

HOW = ("halves", "turns", "sum")


@given(st.lists(st.booleans(), max_size=6), st.sampled_from(HOW))
def test_every_teacher_has_a_share_and_every_group_one_that_knows_the_classes(others: list[bool], how: str) -> None:
    knowing = [True, *others]  # the first says which classes there are
    groups = shares(knowing, how)
    assert {member for group in groups for member in group} == set(range(len(knowing)))
    assert all(any(knowing[member] for member in group) for group in groups)


@pytest.mark.parametrize("how", HOW)
def test_one_teacher_makes_all(how: str) -> None:
    assert shares([True], how) == [[0]]


def test_only_halves_leave_the_first_alone() -> None:
    assert shares([True, True, False], "halves") == [[0], [1, 2]]
    assert shares([True, True, False], "turns") == shares([True, True, False], "sum") == [[0, 1, 2]]


@given(st.integers(1, 2000), st.integers(2, 256), st.integers(1, 2))
def test_batches_are_no_larger_than_allowed_and_as_many_from_each_group(images: int, batch: int, groups: int) -> None:
    count = batch_count(images, batch, groups)
    assert 1 <= count <= images and -(-images // count) <= batch
    assert count % groups == 0 or count == images
    assert count < images / batch + groups  # and no more than it takes


def test_half_a_size_is_whole_pixels() -> None:
    assert scaled((33, 1), 0.5) == (16, 1)
