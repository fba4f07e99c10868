"""Bit widths, code ranges, and plans that survive JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ptq.config.choices import MAX_BITS, MIN_BITS, check_bits
from ptq.errors import InputError
from ptq.quantization.spec import QuantPlan, QuantSpec

specs = st.builds(
    QuantSpec,
    bits=st.integers(MIN_BITS, MAX_BITS),
    signed=st.booleans(),
    symmetric=st.booleans(),
    axis=st.none() | st.integers(0, 3),
)


@given(specs)
def test_codes_are_as_many_as_the_bits_can_tell_apart(spec: QuantSpec) -> None:
    assert spec.qmax - spec.qmin + 1 == 2**spec.bits
    assert (spec.qmin < 0) == spec.signed
    assert spec.qmin <= 0 < spec.qmax


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32])
def test_other_widths_are_refused_with_the_limits(bits: int) -> None:
    with pytest.raises(InputError, match="between 2 and 8"):
        QuantSpec(bits)
    with pytest.raises(InputError, match=f"the weights .* not {bits}"):
        check_bits(bits, "the weights")


@given(st.dictionaries(st.text(), specs), st.dictionaries(st.text(), specs), st.lists(st.text()))
def test_a_plan_comes_back_from_json(
    weights: dict[str, QuantSpec], activations: dict[str, QuantSpec], notes: list[str]
) -> None:
    plan = QuantPlan(weights, activations, tuple(notes))
    assert QuantPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("odd", ["4", 4.0, None])
def test_bits_that_are_no_number_are_refused(odd: Any) -> None:
    with pytest.raises(InputError, match="between 2 and 8 bits"):
        QuantSpec(odd)


def test_unknown_grids_are_refused() -> None:
    with pytest.raises(InputError, match="no grid 'soft'; choose one of free"):
        QuantSpec(8, grid="soft")  # type: ignore[arg-type]
