"""Histograms of layers: every number counted, on the grid that the quantized model has."""

import pytest
import torch

from ptq.analysis.histograms import BINS, worst_layers
from ptq.analysis.sensitivity import measure_sensitivity
from ptq.errors import InputError
from ptq.graph.fx_helpers import module_of
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_layer_can_be_looked_at(network: str) -> None:
    quantized_model = quantized_network(network, 4, 8)
    found = worst_layers(quantized_model, images(4), count=1000)
    assert {layer.name for layer in found} == set(quantized_model.layers())
    assert [layer.sqnr for layer in found] == sorted(layer.sqnr for layer in found)
    assert worst_layers(quantized_model, images(4), count=2) == found[:2]


def test_all_numbers_are_counted_on_the_grid_of_their_layer() -> None:
    quantized_model, x = quantized_network("resnet", 4, 6), images(4)
    floats = {n.name: n for n in quantized_model.require_float_model().module.graph.nodes}
    for layer in worst_layers(quantized_model, x, count=1000):
        op, quantized = (
            module_of(quantized_model.require_float_model().module, floats[layer.name]),
            quantized_model.layers()[layer.name],
        )
        weight = op.weight  # type: ignore[union-attr]
        assert isinstance(weight, torch.Tensor)
        assert sum(layer.weight.counts) == weight.numel() and len(layer.weight.counts) == BINS
        spec = quantized.weight_quantizer.spec
        assert (layer.weight.grid_low, layer.weight.grid_high) == (spec.qmin, spec.qmax)
        assert layer.bits == spec.bits and layer.input is not None and layer.input_bits is not None
        steps = (layer.input.grid_high - layer.input.grid_low) / layer.input.step
        assert steps == pytest.approx(2**layer.input_bits - 1, rel=1e-3)
        assert layer.input.low <= layer.input.grid_low < layer.input.grid_high <= layer.input.high


def test_noise_and_clipping_are_those_of_an_inspection() -> None:
    quantized_model, x = quantized_network("resnet", 3, 4), images(4)
    known = {layer.name: layer for layer in measure_sensitivity(quantized_model, x).layers}
    for layer in worst_layers(quantized_model, x, count=1000):
        assert layer.sqnr == pytest.approx(known[layer.name].isolated, abs=1e-4)
        assert layer.weight.clipped == pytest.approx(known[layer.name].weight.clipped, abs=2e-3)
        expected = known[layer.name].input
        assert (layer.input is None) == (expected is None)
        if layer.input is not None and expected is not None:
            assert layer.input.clipped == pytest.approx(expected.clipped, abs=2e-3)


def test_numbers_that_are_not_finite_are_not_counted() -> None:
    quantized_model, x = quantized_network("resnet", 4, 8), images(4)
    x[0, 0, 0, 0] = torch.inf
    (stem,) = [layer for layer in worst_layers(quantized_model, x, count=1000) if layer.name.startswith("stem")]
    assert stem.input is not None and sum(stem.input.counts) == x.numel() - 1


def test_without_ranges_it_is_refused() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    with pytest.raises(InputError):
        worst_layers(insert_quantizers(graph_model, make_plan(graph_model, 4, 8)), images(2))
