"""The search for a size: met with as little removed as a few measurements can tell, or refused with what can be met."""

import pytest
from hypothesis import given, strategies as st

import ptq
from ptq.config.flat_options import make_settings
from ptq.progress import SILENT
from ptq.pruning.config import PruneConfig
from ptq.pruning.selection.ranking import unranked
from ptq.run.latency_budget import Sizes, find_factor
from tests.helpers.networks import SHAPE, build


@given(st.floats(0, 5), st.floats(0.1, 20), st.floats(1.5, 30), st.floats(0.02, 1))
def test_a_limit_is_met_with_few_measurements(fixed: float, linear: float, most: float, along: float) -> None:
    tried: list[float] = []

    def latency(factor: float) -> float:
        tried.append(factor)
        return fixed + linear / factor

    whole, least = fixed + linear, fixed + linear / most
    limit = least + along * (whole - least)
    factor = find_factor(latency, limit, most)
    assert fixed + linear / factor <= limit and factor in tried
    assert len(tried) <= 8
    finer = (fixed + linear / max(1.0, factor - 0.02) > limit) or fixed + linear / factor >= 0.9 * limit
    assert finer


def test_what_is_fast_enough_stays() -> None:
    assert find_factor(lambda factor: 2.0, limit=3, most=4) == 1.0


def test_what_cannot_be_met_says_what_can() -> None:
    with pytest.raises(ptq.InputError, match=r"2 ms .* 5 ms.* 8x .* 3 ms"):
        find_factor(lambda factor: 5.0 if factor == 1 else 3.0, limit=2, most=8)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["int8", "float"])
def test_networks_are_measured(of: str) -> None:
    graph_model = ptq.prepare(build("resnet"), SHAPE)
    settings = make_settings("net", threads=1)
    with Sizes(graph_model, unranked(graph_model), PruneConfig(granule=2), settings, of, SILENT) as sizes:  # type: ignore[arg-type]
        found = sizes.search(1000.0)
        assert found.factor == 1.0 and found.tried[0][1] > 0 and found.threads == 1
        with pytest.raises(ptq.InputError):
            sizes.ends(1e-6)
