"""Blocks found without code per model."""

import pytest
import torch
import torchvision

from ptq.graph.blocks import assign_blocks, compose, split
from ptq.graph.fx_helpers import LAYERS, is_tensor, module_of, sole_input
from ptq.graph.preparation import prepare
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 10), ("resnet50", 18), ("mobilenet_v2", 20), ("efficientnet_b0", 19)]
)
def test_blocks_of_well_known_networks(name: str, count: int) -> None:
    model = getattr(torchvision.models, name)(weights=None).eval()
    graph_model = prepare(model, (3, 32, 32))
    blocks = split(graph_model.module, assign_blocks(graph_model.module))
    assert len(blocks) == count
    x = graph_model.example(2)
    assert torch.equal(compose(blocks)(x), graph_model.module(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_composed_are_the_network_bit_for_bit(name: str) -> None:
    graph_model, x = prepare(build(name), SHAPE), images(3)
    assignment = assign_blocks(graph_model.module)
    blocks = split(graph_model.module, assignment)
    assert sorted(set(assignment.values())) == list(range(len(blocks)))
    assert torch.equal(compose(blocks)(x), graph_model.module(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_has_a_layer_and_every_layer_one_block(name: str) -> None:
    graph = prepare(build(name), SHAPE).module
    held = [
        [n.name for n in block.graph.nodes if isinstance(module_of(block, n), LAYERS)]
        for block in split(graph, assign_blocks(graph))
    ]
    assert all(held)
    layers = [n.name for n in graph.graph.nodes if isinstance(module_of(graph, n), LAYERS)]
    assert [name for names in held for name in names] == layers


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_of_a_quantized_model_are_those_of_its_float_model(name: str) -> None:
    quantized_model, x = quantized_network(name), images(3)
    blocks = quantized_model.split()
    assert len(blocks) == len(split(quantized_model.require_float_model().module, quantized_model.blocks))
    with torch.no_grad():
        assert torch.equal(compose(blocks)(x), quantized_model.module(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_hand_over_one_tensor_and_no_tuple(name: str) -> None:
    graph = prepare(build(name), SHAPE).module
    for block in split(graph, assign_blocks(graph)):
        assert is_tensor(sole_input(list(block.graph.nodes)[-1]))


def test_a_residual_block_is_one_block() -> None:
    assignment = assign_blocks(prepare(build("resnet"), SHAPE).module)
    assert assignment["blocks_1_conv1"] == assignment["blocks_1_conv2"]
    assert assignment["blocks_1_conv1"] == assignment["blocks_1_downsample_0"]
    assert assignment["blocks_0_conv1"] != assignment["blocks_1_conv1"]
    # The max-pool has no weights: it belongs to the stem before it.
    assert assignment["stem_0"] == assignment["pool"] == 0


def test_blocks_share_the_networks_modules() -> None:
    graph = prepare(build("resnet"), SHAPE).module
    blocks = split(graph, assign_blocks(graph))
    shared = {id(p) for block in blocks for p in block.parameters()}
    assert shared == {id(p) for p in graph.parameters()}
