"""What layers cost: nothing in float, less with more bits, and what brute force finds."""

import copy
import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from ptq.analysis import sensitivity
from ptq.analysis.accumulators import Cost
from ptq.analysis.sensitivity import Sensitivity, measure_sensitivity
from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.utils.metrics import kl_divergence, sqnr_db
from tests.helpers.branching_networks import BRANCHING, quantized_branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network

COUNT = 20
networks = pytest.mark.parametrize("name", NETWORKS)
all_networks = pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])


@cache
def measured(name: str, weight_bits: int, act_bits: int) -> tuple[QuantizedModel, Sensitivity]:
    make = quantized_network if name in NETWORKS else quantized_branching
    quantized_model = make(name, weight_bits, act_bits)
    return quantized_model, measure_sensitivity(quantized_model, images(COUNT))


@all_networks
def test_every_layer_and_block_is_measured_once_in_order(name: str) -> None:
    quantized_model, found = measured(name, 3, 4)
    assert [layer.name for layer in found.layers] == list(quantized_model.layers())
    assert [n for block in found.blocks for n in block.layers] == list(quantized_model.layers())
    assert [found.blocks[layer.block].layers.count(layer.name) for layer in found.layers] == [1] * len(found.layers)
    assert found.images == COUNT


@all_networks
def test_costs_are_no_gains_and_everything_is_a_number(name: str) -> None:
    _, found = measured(name, 2, 3)
    costs = [layer.cost for layer in found.layers] + [block.cost for block in found.blocks]
    assert all(cost.loss >= 0 for cost in [found.network, *costs])
    for layer in found.layers:
        assert layer.cost.loss > 0
        assert layer.input is not None
        for span in (layer.weight, layer.input):
            assert span.low <= span.high and 0 <= span.clipped <= 1
        assert layer.isolated <= max(layer.isolated_weight, layer.isolated_input) + 1
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["network"]["loss"] == found.network.loss


@all_networks
def test_what_has_accumulated_at_the_end_is_the_noise_of_the_logits(name: str) -> None:
    quantized_model, found = measured(name, 3, 4)
    x = images(COUNT)
    with torch.no_grad():
        logits, quantized = quantized_model.require_float_model().module(x), quantized_model.module(x)
    assert found.network.sqnr == pytest.approx(sqnr_db(logits, quantized), abs=1e-4)
    assert found.network.loss == pytest.approx(kl_divergence(logits, quantized), rel=1e-3)
    assert found.blocks[-1].cumulative == pytest.approx(found.network.sqnr)
    if list(quantized_model.require_float_model().module.graph.nodes)[-2].name == found.layers[-1].name:
        assert found.layers[-1].cumulative == pytest.approx(found.network.sqnr)


def test_a_network_of_several_outputs_is_measured_by_all_of_them() -> None:
    quantized_model, found = measured("two heads", 3, 4)
    assert [layer.name for layer in found.layers] == list(quantized_model.layers())
    silent = {layer.name for layer in found.layers if math.isinf(layer.cost.sqnr)}
    assert not silent


@all_networks
def test_nothing_has_accumulated_before_the_first(name: str) -> None:
    _, found = measured(name, 3, 4)
    assert found.blocks[0].cumulative == found.blocks[0].isolated
    assert found.layers[0].cumulative == pytest.approx(found.layers[0].isolated)


@networks
def test_a_float_network_costs_nothing(name: str) -> None:
    graph_model = prepare(build(name), SHAPE)
    found = measure_sensitivity(insert_quantizers(graph_model, QuantPlan({}, {})), images(4))
    nothing = Cost(0.0, math.inf)
    assert (found.layers, found.network) == ((), nothing)
    assert all(block.cost == nothing and block.isolated == math.inf for block in found.blocks)
    assert found.to_json()["network"]["sqnr"] is None


@networks
def test_two_bits_cost_more_than_eight(name: str) -> None:
    _, fine = measured(name, 8, 8)
    _, coarse = measured(name, 2, 8)
    compared = 0
    for layer, other in zip(fine.layers, coarse.layers, strict=True):
        if other.weight.bits == 2:  # neither the first nor the last
            compared += 1
            assert layer.cost.loss < other.cost.loss
            assert layer.weight_sqnr > other.weight_sqnr
            assert layer.isolated > other.isolated
    assert compared


def test_the_cost_of_a_layer_is_what_quantizing_it_by_itself_does() -> None:
    quantized_model, found = measured("resnet", 3, 4)
    read = "blocks_0_relu"  # by this layer only
    plan = QuantPlan(
        {"blocks_0_conv2": quantized_model.plan.weights["blocks_0_conv2"]},
        {read: quantized_model.plan.activations[read]},
    )
    alone = insert_quantizers(quantized_model.require_float_model(), plan)
    for mine, theirs in (
        (alone.layers()["blocks_0_conv2"], quantized_model.layers()["blocks_0_conv2"]),
        (alone.quantizers()[read], quantized_model.quantizers()[read]),
    ):
        mine.load_state_dict(theirs.state_dict())
    x = images(COUNT)
    with torch.no_grad():
        logits, quantized = quantized_model.require_float_model().module(x), alone.module(x)
    layer = next(layer for layer in found.layers if layer.name == "blocks_0_conv2")
    assert layer.cost.loss == pytest.approx(kl_divergence(logits, quantized), rel=1e-4)
    assert layer.cost.sqnr == pytest.approx(sqnr_db(logits, quantized), abs=1e-3)


def test_a_layer_tells_its_weights_noise_from_its_inputs() -> None:
    _, coarse_weights = measured("resnet", 2, 8)
    _, coarse_inputs = measured("resnet", 8, 2)
    for weights, inputs in list(zip(coarse_weights.layers, coarse_inputs.layers, strict=True))[2:-1]:
        assert weights.isolated_weight < weights.isolated_input
        assert inputs.isolated_weight > inputs.isolated_input


def test_the_size_of_the_pieces_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized_model, found = measured("resnet", 3, 4)
    monkeypatch.setattr(sensitivity, "BATCH", 7)
    again = measure_sensitivity(quantized_model, images(COUNT))
    assert again.network.loss == pytest.approx(found.network.loss, rel=1e-3)
    for layer, other in zip(again.layers, found.layers, strict=True):
        assert layer.cost.loss == pytest.approx(other.cost.loss, rel=1e-3)
        assert layer.isolated == pytest.approx(other.isolated, abs=1e-3)


def test_images_are_taken_from_all_over() -> None:
    quantized_model, x = quantized_network("resnet"), images(9)
    found = measure_sensitivity(quantized_model, x, images=3)
    assert found == measure_sensitivity(quantized_model, x[[0, 4, 8]])
    assert found.images == 3


@networks
def test_nothing_is_changed(name: str) -> None:
    quantized_model = quantized_network(name)
    modules = quantized_model.module, quantized_model.require_float_model().module
    before = [(copy.deepcopy(m.state_dict()), m.code) for m in modules]
    measure_sensitivity(quantized_model, images(3))
    for module, (state, code) in zip(modules, before, strict=True):
        assert module.code == code
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_what_cannot_be_measured_is_refused() -> None:
    graph_model, quantized_model = prepare(build("resnet"), SHAPE), quantized_network("resnet")
    with pytest.raises(InputError):
        measure_sensitivity(insert_quantizers(graph_model, make_plan(graph_model, 4)), images(4))
    for x in (images(0), images(4)[:, :, :8]):
        with pytest.raises(InputError, match="image"):
            measure_sensitivity(quantized_model, x)
    with pytest.raises(InputError, match="at least one image"):
        measure_sensitivity(quantized_model, images(4), images=0)
    with pytest.raises(InputError, match=r"ptq\.load\(folder, model\)"):
        measure_sensitivity(replace(quantized_model, float_model=None), images(4))


def test_a_layer_that_reads_a_float_tensor_has_no_input_range() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    plan = make_plan(graph_model, 4)
    quantized_model = calibrate(insert_quantizers(graph_model, QuantPlan(plan.weights, {})), images(4))
    for layer in measure_sensitivity(quantized_model, images(4)).layers:
        assert layer.input is None
        assert (layer.isolated_input, layer.isolated) == (math.inf, layer.isolated_weight)
