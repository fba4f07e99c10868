"""Blocks hand each other tensors by name, and in order they are the network."""

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ptq.graph.blocks import Block, compose, named_inputs, split
from ptq.graph.cutting import assign_blocks
from ptq.graph.fx_helpers import is_tensor
from ptq.graph.preparation import prepare
from ptq.graph.rows import mark_rows
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers.branching_networks import BRANCHING, branching, quantized_branching, two_heads
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


def prepared(name: str) -> fx.GraphModule:
    if name == "two heads":
        return two_heads().module
    return prepare(build(name) if name in NETWORKS else branching(name), SHAPE).module


def quantized(name: str) -> QuantizedModel:
    return quantized_network(name) if name in NETWORKS else quantized_branching(name)


def assert_same(given: object, wanted: object) -> None:
    tensors, kind = pytree.tree_flatten(given)
    others, other_kind = pytree.tree_flatten(wanted)
    assert kind == other_kind
    for tensor, other in zip(tensors, others, strict=True):
        assert torch.equal(tensor, other)


every = pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING, "two heads"])


@every
def test_blocks_composed_are_the_network_bit_for_bit(name: str) -> None:
    graph, x = prepared(name), images(3)
    blocks = split(graph, assign_blocks(graph))
    assert_same(compose(graph, blocks)(named_inputs(graph, x)), graph(x))


@every
def test_the_blocks_of_a_quantized_model_are_those_of_its_float_model(name: str) -> None:
    quantized_model, x = quantized(name), images(3)
    blocks, network = quantized_model.split(), quantized_model.require_float_model().module
    floats = split(network, quantized_model.blocks)
    assert [block.inputs for block in floats] == [block.inputs for block in blocks]
    for float_block, block in zip(floats, blocks, strict=True):
        assert set(float_block.outputs) <= set(block.outputs)
    with torch.no_grad():
        # Either network puts the output together.
        for graph in (network, quantized_model.module):
            assert_same(compose(graph, blocks)(named_inputs(graph, x)), quantized_model.module(x))


@every
def test_what_is_alive_is_one_row_for_every_image(name: str) -> None:
    graph, x = prepared(name), images(3)
    alive = named_inputs(graph, x)
    blocks = split(graph, assign_blocks(graph))
    for index, block in enumerate(blocks):
        given = block(alive)
        rest = compose(graph, blocks[index + 1 :])
        assert set(given) <= set(rest.inputs) <= set(given) | set(alive)
        assert all(isinstance(y, Tensor) and len(y) == 3 for y in given.values())
        alive = rest.alive(alive, given)
        one = block({name: value[:1] for name, value in named_inputs(graph, x).items()}) if not index else {}
        for name_, value in one.items():
            torch.testing.assert_close(value, given[name_][:1], rtol=1e-4, atol=1e-5)
        assert_same(rest(alive), graph(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_where_one_tensor_is_alive_a_block_has_one_input_and_one_output(name: str) -> None:
    graph = prepared(name)
    nodes = {n.name: n for n in graph.graph.nodes}
    blocks = split(graph, assign_blocks(graph))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        (output,) = block.outputs
        assert is_tensor(nodes[output])
        assert following is None or following.inputs == block.outputs


def test_a_tensor_that_passes_by_is_neither_read_nor_given() -> None:
    graph = prepared("unet")
    blocks = split(graph, assign_blocks(graph))
    skipped = blocks[0].outputs[0]
    touching = [i for i, block in enumerate(blocks) if skipped in (*block.inputs, *block.outputs)]
    assert touching[:2] == [0, 1] and len(touching) == 3 and touching[2] > 6


def test_blocks_share_the_networks_modules() -> None:
    graph = prepared("resnet")
    shared = {id(p) for block in split(graph, assign_blocks(graph)) for p in block.module.parameters()}
    assert shared == {id(p) for p in graph.parameters()}


class TwoInputs(nn.Module):
    """The second input is read when the first has been used up; an output is one of the inputs' sums, and one a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
        self.second = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, object]]:
        x = self.first(a)
        return x, {"both": [self.second(b) + x, x * 2], "name": "constant"}


def test_several_inputs_and_a_nested_output() -> None:
    graph, a, b = fx.symbolic_trace(TwoInputs()), images(2), images(2, seed=3)
    mark_rows(graph, a, b)
    for node in graph.graph.nodes:
        node.meta |= {"scope": None, "is_tensor": True}
    blocks: list[Block] = split(graph, assign_blocks(graph))
    chain = compose(graph, blocks)
    assert chain.inputs == ("a", "b")
    given, wanted = chain(named_inputs(graph, a, b)), graph(a, b)
    assert given[1].pop("name") == wanted[1].pop("name") == "constant"
    assert_same(given, wanted)
