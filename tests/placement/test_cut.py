"""The cheapest division is a minimum cut."""

from itertools import chain, combinations

from hypothesis import given, strategies as st

from ptq.placement.cut import Cost, Tensor, cheapest, total

costs = st.builds(Cost, st.integers(0, 20), st.integers(0, 20))


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Cost | None], list[tuple[Tensor, Cost]]]:
    """A few groups or none, each of which reads some tensors that came before it."""
    count = draw(st.integers(0, 6))
    groups = [draw(st.none() | costs) for _ in range(count)]
    reads = [draw(st.sets(st.integers(0, index), max_size=2)) for index in range(count)]
    tensors = [
        Tensor(index - 1 if index else None, tuple(r for r in range(count) if index in reads[r]), draw(st.booleans()))
        for index in range(count + 1)
    ]
    return groups, [(tensor, draw(costs)) for tensor in tensors]


@given(networks())
def test_no_division_is_cheaper(network: tuple[list[Cost | None], list[tuple[Tensor, Cost]]]) -> None:
    groups, tensors = network
    free = [index for index, cost in enumerate(groups) if cost is not None]
    every = chain.from_iterable(combinations(free, size) for size in range(len(free) + 1))
    found = cheapest(groups, tensors)
    assert found <= set(free)
    assert total(groups, tensors, found) == min(total(groups, tensors, set(some)) for some in every)
