"""The solver against exhaustive search, and what it does with two hundred layers."""

import itertools
import random
import time

import pytest
from hypothesis import given, strategies as st

from ptq.allocation.results import LayerWidths, Tradeoffs, Width
from ptq.allocation.solver import frontier, solve
from ptq.errors import InputError

HARMS = st.floats(1e-7, 10)
LAYERS = st.lists(
    st.lists(st.tuples(st.integers(1, 5000), HARMS), min_size=1, max_size=3).map(
        lambda widths: tuple(Width(2**index, size, harm) for index, (size, harm) in enumerate(widths))
    ),
    min_size=1,
    max_size=6,
)


def made(layers: list[tuple[Width, ...]]) -> Tradeoffs:
    return Tradeoffs(tuple(LayerWidths(f"layer{i}", widths) for i, widths in enumerate(layers)), rest=100, images=8)


def best(tradeoffs: Tradeoffs, budget: int) -> float:
    names = [layer.name for layer in tradeoffs.layers]
    every = itertools.product(*([width.bits for width in layer.widths] for layer in tradeoffs.layers))
    choices = [dict(zip(names, bits, strict=True)) for bits in every]
    return min(tradeoffs.harm(bits) for bits in choices if tradeoffs.size(bits) <= budget)


@given(LAYERS, st.floats(0, 1))
def test_no_choice_within_the_budget_does_less_harm(layers: list[tuple[Width, ...]], share: float) -> None:
    tradeoffs = made(layers)
    largest = 100 + sum(max(width.size for width in widths) for widths in layers)
    budget = int(tradeoffs.least() + share * (largest - tradeoffs.least()))
    bits = solve(tradeoffs, budget)
    assert tradeoffs.size(bits) <= budget
    assert tradeoffs.harm(bits) <= best(tradeoffs, budget) * (1 + 1e-6)


@given(LAYERS)
def test_a_budget_below_the_smallest_file_is_refused(layers: list[tuple[Width, ...]]) -> None:
    tradeoffs = made(layers)
    with pytest.raises(InputError):
        solve(tradeoffs, tradeoffs.least() - 1)
    assert tradeoffs.size(solve(tradeoffs, tradeoffs.least())) == tradeoffs.least()


def large() -> Tradeoffs:
    """Two hundred layers of very different size and harm."""
    draw = random.Random(0)
    layers = []
    for _ in range(200):
        numbers, harm = draw.randint(600, 500_000), 10 ** draw.uniform(-6, -2)
        harms = (harm * draw.uniform(10, 60), harm, harm / 250)
        layers.append(tuple(Width(b, numbers * b // 8, h) for b, h in zip((2, 4, 8), harms, strict=True)))
    return made(layers)


@pytest.mark.timed
def test_two_hundred_layers_take_seconds() -> None:
    tradeoffs = large()
    started = time.perf_counter()
    bits = solve(tradeoffs, (tradeoffs.least() + tradeoffs.most()) // 2)
    assert time.perf_counter() - started < 5
    assert len(bits) == 200


def test_the_frontier_falls_and_ends_at_both_extremes() -> None:
    layers = [tuple(Width(b, n * b, n / b**2) for b in (2, 4, 8)) for n in (7, 40, 300, 55)]
    tradeoffs = made(layers)
    found = frontier(tradeoffs)
    assert found[0].size == tradeoffs.least() and found[-1].size == tradeoffs.most()
    assert [p.size for p in found] == sorted({p.size for p in found})
    assert [p.harm for p in found] == sorted((p.harm for p in found), reverse=True)


def test_what_is_kept_reads_back() -> None:
    tradeoffs = large()
    assert Tradeoffs.from_json(tradeoffs.to_json()) == tradeoffs
    with pytest.raises(InputError):
        Tradeoffs.from_json({"layers": [], "rest": "many", "images": 1})
