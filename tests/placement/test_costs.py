"""Costs are measured once, and kept."""

from pathlib import Path

import pytest

from ptq.placement import costs
from ptq.placement.cut import Cost
from ptq.placement.kernels import Kernel

ADD, SHAPE = Kernel("Add", ((1, 8, 2, 2), (1, 8, 2, 2))), (1, 8, 2, 2)


def test_costs_are_measured_once_and_again_where_the_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = costs.measure_costs([ADD], [SHAPE], threads=1)
    assert first.keys() == {ADD, SHAPE} and min(min(c.integers, c.floats) for c in first.values()) > 0
    monkeypatch.setattr(costs, "kernel_times", lambda *_: pytest.fail("measured again"))
    assert costs.measure_costs([ADD], [SHAPE], threads=1) == first
    file = costs.cache_file(1)
    for damaged in ("", "[1]", '{"x": 1}', file.read_text()[:-9]):
        file.write_text(damaged)
        monkeypatch.setattr(costs, "_measured", lambda wanted, threads: dict.fromkeys(wanted, Cost(7.0, 8.0)))
        assert costs.measure_costs([ADD], [], threads=1) == {ADD: Cost(7.0, 8.0)}


def test_a_kernel_that_onnxruntime_refuses_has_no_cost_and_the_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    refused = Kernel("Concat", ((1, 8, 2, 2), (1, 8, 4, 4)), (("axis", 1),))
    assert costs.measure_costs([refused, ADD], [SHAPE], threads=1).keys() == {ADD, SHAPE}
