"""Which tensors and layers are quantized, and with how many bits."""

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError, ModelError
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan, select
from tests.helpers.networks import SHAPE, build, images


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
    assert grids.pop("x") == "images"
    assert grids == {"conv": "sigmoid", "silu": "zero_to_one", "excite": "sigmoid", "sigmoid": "zero_to_one"}


def test_hard_gates_read_the_codes_of_their_input() -> None:
    plan = make_plan(prepared_of("hard_gates"), 4, 4, edge_bits=4)
    grids = {name: spec.grid for name, spec in plan.activations.items() if spec.grid != "free"}
    assert grids.pop("x") == "images"
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
    assert {name: spec.grid for name, spec in plan.activations.items() if spec.grid != "free"} == {"x": "images"}
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


def test_layers_by_name_have_their_own_bits() -> None:
    graph_model = prepared_of("resnet")
    layers: dict[str, int | None] = {"blocks.1.*": 6, "blocks_2_conv2": None, "fc": 5}
    plan = make_plan(graph_model, 4, layers=layers)
    assert plan.weights["blocks_1_conv1"].bits == plan.weights["blocks_1_downsample_0"].bits == 6
    assert plan.weights["blocks_0_conv1"].bits == 4
    assert plan.weights["fc"].bits == 5
    assert "blocks_2_conv2" not in plan.weights
    quantized_model = calibrate(insert_quantizers(graph_model, plan), images(8))
    assert type(quantized_model.module.get_submodule("blocks.2.conv2")) is nn.Conv2d
    assert quantized_model.integer_forward(images(2)).shape == (2, 10)


def test_tensors_by_name_have_their_own_bits() -> None:
    graph_model = prepared_of("resnet")
    plain = make_plan(graph_model, 4, 4)
    plan = make_plan(graph_model, 4, 4, tensors={"blocks_1_*": 6, "blocks.1.conv2": 5, "x": 7})
    bits = {name: spec.bits for name, spec in plan.activations.items() if spec != plain.activations[name]}
    assert bits == {"x": 7, "blocks_1_downsample_0": 6, "blocks_1_relu": 6, "blocks_1_conv2": 5, "blocks_1_relu_1": 6}
    assert plan.weights == plain.weights
    quantized_model = calibrate(insert_quantizers(graph_model, plan), images(8))
    assert quantized_model.quantizers()["blocks_1_conv2"].spec.qmax == 31


def test_notes_say_what_was_given_by_name() -> None:
    plan = make_plan(prepared_of("resnet"), 4, layers={"fc": None, "stem.*": 6}, tensors={"avgpool": 7})
    assert plan.notes[:3] == make_plan(prepared_of("resnet"), 4).notes
    assert plan.notes[3:] == ("weights by name: fc: float, stem.*: 6 bits", "activations by name: avgpool: 7 bits")


def test_a_tensor_whose_scale_a_gate_fixes_keeps_its_bits() -> None:
    graph_model = prepared_of("hard_gates")
    with pytest.raises(InputError, match="stem_0"):
        make_plan(graph_model, 4, tensors={"stem_0": 6})
    assert make_plan(graph_model, 4, tensors={"stem_0": 8}).activations["stem_0"].grid == "hardswish"
    # A sigmoid that nothing reads at 8 bits binds nothing.
    assert make_plan(prepared_of("squeeze_excite"), 4, 4, tensors={"mean": 6}).activations["mean"].bits == 6


def test_selecting_needs_no_bits() -> None:
    graph_model = prepared_of("resnet")
    selection, plan = select(graph_model), make_plan(graph_model, 4, 4)
    assert [node.name for node in selection.layers] == list(plan.weights)
    assert [node.name for node in selection.tensors] == list(plan.activations)
    # What only a layer in float reads and writes stays in float, too.
    without = select(graph_model, keep_float={"fc"})
    assert [node.name for node in without.layers] == [name for name in plan.weights if name != "fc"]
    assert without.first[0].name == "stem_0" and [node.name for node in without.last] == ["fc"]


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"'layer9\.\*'.*stem\.0"):
        make_plan(prepared_of("resnet"), 4, layers={"layer9.*": 8})
    with pytest.raises(InputError, match=r"'maxpool'.*stem\.2"):
        make_plan(prepared_of("resnet"), 4, tensors={"maxpool": 8})


def test_bits_out_of_range_are_refused() -> None:
    graph_model = prepared_of("resnet")
    for bits in ((1, 8), (4, 16)):
        with pytest.raises(InputError):
            make_plan(graph_model, *bits)
    with pytest.raises(InputError):
        make_plan(graph_model, 4, layers={"fc": 9})
    with pytest.raises(InputError):
        make_plan(graph_model, 4, tensors={"avgpool": 1})


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ModelError):
        make_plan(prepare(nn.Sequential(nn.ReLU(), nn.Flatten()), SHAPE), 4)


def test_boxes_read_from_distributions_are_no_layer_and_leave_the_heads_the_last() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
            self.sides, self.scores, self.mean = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(4, 1, 1, bias=False)
            self.mean.weight.data = torch.arange(4.0).view(1, 4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            both = torch.cat([self.sides(x), self.scores(x)], 1).flatten(2)  # as YOLOv8 does
            sides, scores = both.split([16, 3], 1)
            lengths = sides.view(len(x), 4, 4, -1).transpose(2, 1).softmax(1)
            return torch.cat([10 * self.mean(lengths).view(len(x), 4, -1), scores.sigmoid()], 1)

    graph_model = prepare(Detector().eval(), SHAPE)
    plan = make_plan(graph_model, 2, 4)
    assert {name: spec.bits for name, spec in plan.weights.items()} == {
        "body_0": 8,
        "body_2": 2,
        "sides": 8,
        "scores": 8,
    }
    assert plan.activations.keys() == {"x", "body_1", "body_3", "sides", "scores"}  # none for what lies behind these
    quantized_model = calibrate(insert_quantizers(graph_model, plan), images(4))
    assert quantized_model.integer_forward(images(2)).shape == (2, 7, 36)
