"""Bits that all layers have beside the best of the same size: measured where that takes little of the run's time."""

from functools import cache
from typing import Any

import pytest
import torch

from ptq.allocation.allocate import OF_ALL
from ptq.config.flat_options import make_settings
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reporting.bits import alternative_lines
from ptq.run.alternative import LEAST, find_alternative
from tests.helpers.networks import images, quantized_network


@cache
def made(bits: int) -> tuple[QuantizedModel, torch.Tensor]:
    return quantized_network("resnet", bits, 8), images(OF_ALL * LEAST)


def test_bits_of_their_own_do_no_more_harm_in_the_same_bytes() -> None:
    quantized_model, x = made(2)
    before = {name: spec.bits for name, spec in quantized_model.plan.weights.items()}
    found = find_alternative(make_settings("resnet", 2), quantized_model, x, {}, seconds=1e4)
    assert found is not None and found.images == LEAST
    assert found.better
    assert set(found.bits) == set(before) and found.bits != before
    assert {name: spec.bits for name, spec in quantized_model.plan.weights.items()} == before
    assert len(alternative_lines(found, "nats")) == 1


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({"bits": 4}, 10.0), ({"bits": 8}, 1e4), ({"format": "int8", "bits": 4}, 1e4), ({"max_size": "1MB"}, 1e4)],
)
def test_nothing_is_measured_where_it_takes_long_or_compares_nothing(options: dict[str, Any], seconds: float) -> None:
    quantized_model, x = made(2)
    assert find_alternative(make_settings("resnet", **options), quantized_model, x, {}, seconds) is None
    assert alternative_lines(None, "nats") == []
