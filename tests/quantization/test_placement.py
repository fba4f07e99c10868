"""Which tensors are quantized, and that the quantized model is the network when the codes are fine."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import PtqError
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.integer_ops import moves_data
from ptq.quantization.placement import insert_quantizers, make_plan
from ptq.quantization.quantizers import Quantizer, QuantLayer
from ptq.quantization.spec import QuantPlan, QuantSpec
from ptq.utils.metrics import sqnr_db
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


def prepared_of(name: str) -> GraphModel:
    return prepare(build(name), SHAPE)


def test_a_residual_network_is_quantized_where_integer_kernels_read_and_write() -> None:
    plan = make_plan(prepared_of("resnet"), 4, 4)
    # Outputs behind their ReLU, both inputs of every addition, the pool's output; neither the
    # max-pool, which shares the stem's range, nor the logits.
    assert list(plan.activations) == [
        "x",
        "stem_2",
        "blocks_0_relu",
        "blocks_0_conv2",
        "blocks_0_relu_1",
        "blocks_1_downsample_0",
        "blocks_1_relu",
        "blocks_1_conv2",
        "blocks_1_relu_1",
        "blocks_2_relu",
        "blocks_2_conv2",
        "blocks_2_relu_1",
        "avgpool",
    ]
    # Few bits only where a layer multiplies, and not in the first and last one.
    narrow = {name for name, spec in plan.activations.items() if spec.bits == 4}
    assert narrow == {"blocks_0_relu", "blocks_0_relu_1", "blocks_1_relu", "blocks_1_relu_1", "blocks_2_relu"}
    assert {spec.bits for spec in plan.activations.values()} == {4, 8}
    assert {name for name, spec in plan.weights.items() if spec.bits == 8} == {"stem_0", "fc"}
    assert all(not spec.signed and spec.axis is None for spec in plan.activations.values())
    assert all(spec.signed and spec.symmetric for spec in plan.weights.values())


def test_notes_tell_two_widths_of_activations_apart_where_there_are_two() -> None:
    narrow, wide = (make_plan(prepared_of("resnet"), 4, bits).notes[1] for bits in (4, 8))
    assert narrow.startswith("activations: 4 bits where a layer reads them, 8 where only")
    assert wide == "activations: 8 bits; per tensor, affine"


def test_activations_read_and_are_read_at_full_width() -> None:
    plan = make_plan(prepared_of("squeeze_excite"), 4, 4)
    bits = {name: spec.bits for name, spec in plan.activations.items()}
    assert {name for name, b in bits.items() if b == 4} == {"mean", "relu"}
    assert list(bits) == ["x", "conv", "silu", "mul_1", "mean", "relu", "excite", "sigmoid", "mul", "mean_1"]
    grids = {name: spec.grid for name, spec in plan.activations.items() if spec.grid != "free"}
    assert grids == {"conv": "sigmoid", "silu": "unit", "excite": "sigmoid", "sigmoid": "unit"}


def test_hard_gates_read_the_codes_of_their_input() -> None:
    plan = make_plan(prepared_of("hard_gates"), 4, 4, edge_bits=4)
    grids = {name: spec.grid for name, spec in plan.activations.items() if spec.grid != "free"}
    assert grids == {"stem_0": "hardswish", "excite": "hardsigmoid", "hidden": "hardswish"}
    # Its own 8 bits, although the first layer's edge has 4; no quantizer behind the gates themselves.
    assert all(plan.activations[name].bits == 8 for name in grids)
    assert not [name for name in plan.activations if "hardsig" in name or name == "stem_2"]


def test_a_gate_whose_input_others_read_stays_in_float() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (nn.Conv2d(n, 8, 3) for n in (3, 8, 8))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.left(self.stem(x))
            x = torch.cat([nn.functional.hardsigmoid(x), x], 1)[:, 4:12]
            return self.head(self.right(x).mean((2, 3)))  # type: ignore[no-any-return]

    plan = make_plan(prepare(Other().eval(), SHAPE), 8)
    assert {spec.grid for spec in plan.activations.values()} == {"free"}
    assert "hardsigmoid" in plan.activations


def test_transposed_convolutions_have_their_channels_elsewhere() -> None:
    plan = make_plan(prepared_of("upsampling"), 4)
    assert {name: spec.axis for name, spec in plan.weights.items()} == {
        "conv": 0,
        "up": 1,
        "side": 0,
        "hidden": 0,
        "head": 0,
    }


def test_batchnorm_left_over_keeps_full_width() -> None:
    plan = make_plan(prepared_of("densenet"), 2, 4)
    assert {name: spec.bits for name, spec in plan.weights.items()} == {
        "stem": 8,
        "norms_0": 8,
        "convs_0": 2,
        "norms_1": 8,
        "convs_1": 2,
        "norms_2": 8,
        "head": 8,
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantized_tensor_has_one_quantizer(name: str) -> None:
    quantized_model = quantized_network(name)
    nodes = {node.name: node for node in quantized_model.module.graph.nodes}
    assert set(quantized_model.quantizers()) == set(quantized_model.plan.activations)
    assert set(quantized_model.layers()) == set(quantized_model.plan.weights)
    for source in quantized_model.quantizers():
        # Nobody reads the float tensor past its quantizer.
        assert len(nodes[source].users) == 1
        assert not moves_data(quantized_model.float_model.module, nodes[source]) or source == "x"
    assert all(layer.input_quantizer is not None for layer in quantized_model.layers().values())
    assert set(quantized_model.blocks) >= {n for n, node in nodes.items() if node.op == "call_module"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fine_student_is_nearly_the_network(name: str) -> None:
    model, x = build(name), images(16)
    fine, coarse = quantized_network(name, 8, 8), quantized_network(name, 3, 3)
    assert sqnr_db(model(x), fine(x)) > 25
    assert sqnr_db(model(x), fine(x)) > sqnr_db(model(x), coarse(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_plan_is_the_network(name: str) -> None:
    graph_model, x = prepared_of(name), images(4)
    assert torch.equal(insert_quantizers(graph_model, QuantPlan({}, {}))(x), graph_model.module(x))


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


def test_overrides_reach_layers_by_pattern() -> None:
    graph_model = prepared_of("resnet")
    overrides: dict[str, int | None] = {"blocks.1.*": 6, "blocks_2_conv2": None, "fc": 5}
    plan = make_plan(graph_model, 4, overrides=overrides)
    assert plan.weights["blocks_1_conv1"].bits == plan.weights["blocks_1_downsample_0"].bits == 6
    assert plan.weights["blocks_0_conv1"].bits == 4
    assert plan.weights["fc"].bits == 5
    assert "blocks_2_conv2" not in plan.weights
    quantized_model = calibrate(insert_quantizers(graph_model, plan), images(8))
    assert type(quantized_model.module.get_submodule("blocks.2.conv2")) is nn.Conv2d
    assert quantized_model(images(2)).shape == (2, 10)


def test_an_edited_plan_is_followed() -> None:
    graph_model = prepared_of("resnet")
    plan = make_plan(graph_model, 4)
    edited = replace(plan, activations={**plan.activations, "blocks_0_relu": QuantSpec(3)})
    assert insert_quantizers(graph_model, edited).quantizers()["blocks_0_relu"].spec.bits == 3


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(PtqError, match=r"'layer9\.\*'.*stem\.0"):
        make_plan(prepared_of("resnet"), 4, overrides={"layer9.*": 8})


def test_bits_out_of_range_are_refused() -> None:
    with pytest.raises(PtqError, match="between 2 and 8"):
        make_plan(prepared_of("resnet"), 1)
    with pytest.raises(PtqError, match="between 2 and 8"):
        make_plan(prepared_of("resnet"), 4, 16)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(PtqError, match="no convolution and no linear"):
        make_plan(prepare(nn.Sequential(nn.ReLU(), nn.Flatten()), SHAPE), 4)


def test_the_plan_of_another_network_is_refused() -> None:
    plan = make_plan(prepared_of("mobilenet"), 4)
    with pytest.raises(PtqError, match="another network"):
        insert_quantizers(prepared_of("resnet"), plan)
    wrong = QuantPlan({"pool": QuantSpec(4, signed=True, symmetric=True, axis=0)}, {})
    with pytest.raises(PtqError, match=r"another network.*'pool'"):
        insert_quantizers(prepared_of("resnet"), wrong)


def test_an_uncalibrated_student_refuses_to_run() -> None:
    graph_model = prepared_of("resnet")
    with pytest.raises(PtqError, match="calibrate"):
        insert_quantizers(graph_model, make_plan(graph_model, 4))(images(1))


def test_a_module_of_several_results_gets_no_quantizer_itself() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2).permute(0, 2, 1)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            logits: Tensor = self.head(x[:, 0])
            return logits

    graph_model = prepare(Attention().eval(), (3, 16, 16))
    plan = make_plan(graph_model, 8)
    assert "attention" not in plan.activations and "getitem" in plan.activations
    quantized_model = insert_quantizers(graph_model, plan)
    for quantizer in quantized_model.quantizers().values():
        quantizer.set_range(torch.tensor(-8.0), torch.tensor(8.0))
    assert "head" in plan.weights


@pytest.mark.parametrize("changed", [{"axis": 1}, {"signed": False}, {"symmetric": False}])
def test_plans_that_no_kernel_reads_are_refused(changed: dict[str, Any]) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    plan = make_plan(graph_model, 4)
    name, spec = next(iter(plan.weights.items()))
    with pytest.raises(PtqError, match="must be signed and symmetric along axis 0"):
        insert_quantizers(graph_model, replace(plan, weights={**plan.weights, name: replace(spec, **changed)}))
    name, spec = next(iter(plan.activations.items()))
    per_channel = {**plan.activations, name: replace(spec, axis=1)}
    with pytest.raises(PtqError, match="must be unsigned, affine and per tensor"):
        insert_quantizers(graph_model, replace(plan, activations=per_channel))
