"""Quantizers in a network: where the plan says, on a copy of it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.layers import QuantLayer
from ptq.quantization.plan import make_plan
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantPlan, QuantSpec
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


def prepared_of(name: str) -> GraphModel:
    return prepare(build(name), SHAPE)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantized_tensor_has_one_quantizer(name: str) -> None:
    quantized_model = quantized_network(name)
    nodes = {node.name: node for node in quantized_model.module.graph.nodes}
    assert set(quantized_model.quantizers()) == set(quantized_model.plan.activations)
    assert set(quantized_model.layers()) == set(quantized_model.plan.weights)
    for source in quantized_model.quantizers():
        # Nobody reads the float tensor past its quantizer.
        assert len(nodes[source].users) == 1
        assert not moves_data(quantized_model.require_float_model().module, nodes[source]) or source == "x"
    assert all(layer.input_quantizer is not None for layer in quantized_model.layers().values())
    assert set(quantized_model.blocks) >= {n for n, node in nodes.items() if node.op == "call_module"}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prepared_network_is_untouched(name: str) -> None:
    graph_model, x = prepared_of(name), images(4)
    state, code = copy.deepcopy(graph_model.module.state_dict()), graph_model.module.code
    output = graph_model.module(x)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 3, 3)), x)
    for parameter in quantized_model.module.parameters():
        parameter.data.fill_(1)
    assert graph_model.module.code == code
    assert all(torch.equal(state[key], v) for key, v in graph_model.module.state_dict().items())
    assert torch.equal(graph_model.module(x), output)
    assert not any(isinstance(m, Quantizer | QuantLayer) for m in graph_model.module.modules())


def test_an_edited_plan_is_followed() -> None:
    graph_model = prepared_of("resnet")
    plan = make_plan(graph_model, 4)
    edited = replace(plan, activations={**plan.activations, "blocks_0_relu": QuantSpec(3)})
    assert insert_quantizers(graph_model, edited).quantizers()["blocks_0_relu"].spec.bits == 3


def test_the_plan_of_another_network_is_refused() -> None:
    plan = make_plan(prepared_of("mobilenet"), 4)
    with pytest.raises(InputError, match="another network"):
        insert_quantizers(prepared_of("resnet"), plan)
    wrong = QuantPlan({"pool": QuantSpec(4, signed=True, symmetric=True, axis=0)}, {})
    with pytest.raises(InputError, match=r"another network.*'pool'"):
        insert_quantizers(prepared_of("resnet"), wrong)


def test_a_module_of_several_results_gets_no_quantizer_itself() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.recurrent = nn.GRU(8, 8, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2).permute(0, 2, 1)
            x = x + self.recurrent(x)[0]
            logits: Tensor = self.head(x[:, 0])
            return logits

    graph_model = prepare(Recurrent().eval(), (3, 16, 16))
    plan = make_plan(graph_model, 8)
    assert "recurrent" not in plan.activations and "getitem" in plan.activations
    quantized_model = insert_quantizers(graph_model, plan)
    for quantizer in quantized_model.quantizers().values():
        quantizer.set_range(torch.tensor(-8.0), torch.tensor(8.0))
    assert "head" in plan.weights


@pytest.mark.parametrize("changed", [{"axis": 1}, {"signed": False}, {"symmetric": False}])
def test_plans_that_no_kernel_reads_are_refused(changed: dict[str, Any]) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    plan = make_plan(graph_model, 4)
    name, spec = next(iter(plan.weights.items()))
    with pytest.raises(InputError, match="must be signed and symmetric along axis 0"):
        insert_quantizers(graph_model, replace(plan, weights={**plan.weights, name: replace(spec, **changed)}))
    name, spec = next(iter(plan.activations.items()))
    per_channel = {**plan.activations, name: replace(spec, axis=1)}
    with pytest.raises(InputError, match="must be unsigned, affine and per tensor"):
        insert_quantizers(graph_model, replace(plan, activations=per_channel))
