"""Rounds of images: every epoch belongs to one, and steps add up."""

from hypothesis import given, strategies as st

from ptq.distillation.schedule import Schedule


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 40), st.data())
def test_rounds_grow_evenly_and_steps_add_up(count: int, batch: int, epochs: int, data: st.DataObject) -> None:
    rounds = data.draw(st.integers(1, epochs))
    schedule = Schedule(count, min(batch, count), epochs, rounds)
    found = [schedule.round_of(epoch) for epoch in range(1, epochs + 1)]
    assert found[0] == 1 and found[-1] == rounds and sorted(found) == found
    sizes = [found.count(number) for number in range(1, rounds + 1)]
    assert max(sizes) - min(sizes) <= 1
    assert schedule.total == sum(schedule.steps(epoch) for epoch in range(1, epochs + 1))
    assert schedule.steps(epochs) == count * rounds // schedule.batch
