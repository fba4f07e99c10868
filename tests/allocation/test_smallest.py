"""The smallest file that is good enough when it is tuned: what is tried, in which order, and when it ends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn

from ptq.allocation.results import Allocation
from ptq.allocation.smallest import STEPS, TUNED, Ladder, smallest
from ptq.allocation.solver import frontier
from tests.allocation.test_allocate import made


@dataclass
class Steps:
    """A ladder of which only the figures count; a file has as many bytes as its step."""

    untuned: Callable[[int], float]

    @property
    def choices(self) -> object:
        return made("resnet")[2]

    def at(self, step: int) -> tuple[Allocation, float]:
        return Allocation({}, step, 0.0, 0.0, 0.0, (), 0), self.untuned(step)

    first = Ladder.first


def find(untuned: Callable[[int], float], gain: Callable[[int], float], asked: float, near: float = 0) -> Allocation:
    ladder = Steps(untuned)
    return smallest(ladder, lambda found: untuned(found.size) + gain(found.size), asked, near)  # type: ignore[arg-type]


def test_what_tuning_brings_makes_the_file_smaller() -> None:
    found = find(lambda step: 60 + step, lambda step: 6, asked=80)
    assert found.size == 14
    assert [attempt.size for attempt in found.attempts] == [20, 14]
    assert [attempt.enough for attempt in found.attempts] == [True, True]


def test_a_larger_file_is_tried_where_the_tuned_one_is_not_good_enough() -> None:
    found = find(lambda step: 60 + step, lambda step: -3, asked=80)
    assert found.size == 23 and not found.missed
    assert [(attempt.before, attempt.after) for attempt in found.attempts] == [(80, 77), (83, 80)]


def test_near_is_good_enough() -> None:
    assert len(find(lambda step: 60 + step, lambda step: 0.4, asked=80, near=0.5).attempts) == 1


@pytest.mark.parametrize("gain", [0.0, 3.0, -40.0, 40.0])
@pytest.mark.parametrize("asked", [50.0, 77.0, 92.0])
def test_it_ends_with_the_smallest_that_is_good_enough_or_with_the_best(gain: float, asked: float) -> None:
    found = find(lambda step: 60 + step, lambda step: gain * (step % 3 - 1), asked)
    sizes = [attempt.size for attempt in found.attempts]
    assert 1 <= len(sizes) <= TUNED and len({*sizes}) == len(sizes)
    enough = [attempt.size for attempt in found.attempts if attempt.enough]
    best = max(found.attempts, key=lambda attempt: attempt.after).size
    assert found.size == (min(enough) if enough else best)
    assert found.missed is not bool(enough)


def test_nothing_is_good_enough_untuned_but_the_largest_file_when_tuned() -> None:
    found = find(lambda step: 60 + step, lambda step: 5, asked=95)
    assert found.size in (30, 31, 32) and found.attempts[0].size == STEPS


def test_steps_are_files_of_that_size_and_rise() -> None:
    quantized_model, x, choices = made("resnet")
    wanted = quantized_model.require_float_model().module(x)

    def judge(network: nn.Module) -> float:
        return -float((network(x) - wanted).square().sum() / wanted.square().sum())

    ladder = Ladder(quantized_model, x, choices, judge)
    points = frontier(choices.tradeoffs)
    enough = points[len(points) // 2]
    found, figure = ladder.at(ladder.first(-1.5 * enough.harm))
    finest = (points[-1].size - points[0].size) / 8
    assert figure >= -1.5 * enough.harm
    assert points[0].size < found.size <= enough.size + finest
    assert ladder.first(1.0) == STEPS


def test_what_tuning_brings_is_told_from_the_sizes_on_both_sides() -> None:
    """Few bits lose by activations and by short tuning, which eight do not."""
    ladder = Steps(lambda step: 60 + step)
    loss = {step: -0.5 * (STEPS - step) for step in range(STEPS + 1)}
    found = smallest(ladder, lambda found: 60 + found.size + loss[found.size], 80, largest=60.0 + STEPS)  # type: ignore[arg-type]
    assert [attempt.size for attempt in found.attempts] == [STEPS, 20, 24]
    assert found.size == 24 and found.attempts[-1].after == 80


def test_steps_with_the_same_file_are_tuned_once() -> None:
    tuned = []

    @dataclass
    class Plateau(Steps):
        def at(self, step: int) -> tuple[Allocation, float]:
            return Allocation({}, min(step, 10) if step < STEPS else step, 0.0, 0.0, 0.0, (), 0), self.untuned(step)

    def tune(found: Allocation) -> float:
        tuned.append(found.size)
        return 0.0

    found = smallest(Plateau(lambda step: float(step >= STEPS)), tune, 1.0, largest=1.0)  # type: ignore[arg-type]
    assert found.size == STEPS and len(tuned) == len({*tuned}) and all(size <= 10 for size in tuned)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_tuning_brings_it_ends_with_what_was_best(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = random.normal(0, 3, STEPS + 1)
    largest = None if seed % 2 else float(60 + STEPS + noise[STEPS])
    found = smallest(Steps(lambda step: 60 + step), lambda a: 60 + a.size + noise[a.size], 80, 0.5, largest)  # type: ignore[arg-type]
    enough = [attempt.size for attempt in found.attempts if attempt.enough]
    assert len(found.attempts) <= TUNED + (largest is not None)
    assert found.size == (min(enough) if enough else max(found.attempts, key=lambda attempt: attempt.after).size)
