"""Blocks found without code per model, and none too long."""

from collections import Counter
from unittest.mock import patch

import pytest
import torchvision
from torch import fx, nn

from ptq.graph import cutting
from ptq.graph.blocks import split
from ptq.graph.cutting import LONG, assign_blocks
from ptq.graph.fx_helpers import LAYERS, is_tensor, module_of
from ptq.graph.preparation import prepare
from tests.helpers.branching_networks import BRANCHING, branching, two_heads
from tests.helpers.networks import NETWORKS, SHAPE, build

KNOWN = [("resnet18", 10), ("resnet50", 18), ("mobilenet_v2", 20), ("efficientnet_b0", 19)]


def known(name: str) -> fx.GraphModule:
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    return prepare(model.eval(), (3, 32, 32)).module


def sizes(graph: fx.GraphModule) -> list[int]:
    """How many layers each block has."""
    assignment = assign_blocks(graph)
    layers = Counter(assignment[n.name] for n in graph.graph.nodes if isinstance(module_of(graph, n), LAYERS))
    assert sorted(set(assignment.values())) == list(range(max(assignment.values()) + 1))
    return [layers[index] for index in range(max(assignment.values()) + 1)]


def where_one_tensor_is_alive(graph: fx.GraphModule) -> dict[str, int]:
    """Blocks of one input and one output: cut where one tensor is alive, joined where building blocks are shared."""
    order = [n for n in graph.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    joined: list[tuple[list[fx.Node], set[object]]] = []
    piece: list[fx.Node] = []
    for i, node in enumerate(order):
        piece.append(node)
        later = set(order[i + 1 :])
        alive = [
            n for n in graph.graph.nodes if n not in later and any(u in later or u.op == "output" for u in n.users)
        ]
        alive = [n for n in alive if n.op != "get_attr"]
        if i + 1 < len(order) and not (len(alive) == 1 and is_tensor(alive[0])):
            continue
        layers = [n for n in piece if isinstance(module_of(graph, n), LAYERS)]
        scopes = {n.meta["scope"] for n in layers}
        if joined and (not layers or scopes & joined[-1][1] - {None} or not joined[-1][1]):
            joined[-1][0].extend(piece)
            joined[-1][1].update(scopes)
        else:
            joined.append((piece, set(scopes)))
        piece = []
    return {node.name: index for index, (nodes, _) in enumerate(joined) for node in nodes}


@pytest.mark.parametrize(("name", "count"), KNOWN)
def test_blocks_of_well_known_networks(name: str, count: int) -> None:
    assert len(sizes(known(name))) == count


@pytest.mark.parametrize("name", [*NETWORKS, *(name for name, _ in KNOWN)])
def test_where_one_tensor_is_alive_often_enough_nothing_else_is_cut(name: str) -> None:
    graph = prepare(build(name), SHAPE).module if name in NETWORKS else known(name)
    assert assign_blocks(graph) == where_one_tensor_is_alive(graph)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_has_a_layer_and_every_layer_one_block(name: str) -> None:
    graph = prepare(build(name), SHAPE).module
    held = [
        [n.name for n in block.module.graph.nodes if isinstance(module_of(block.module, n), LAYERS)]
        for block in split(graph, assign_blocks(graph))
    ]
    assert all(held)
    layers = [n.name for n in graph.graph.nodes if isinstance(module_of(graph, n), LAYERS)]
    assert [name for names in held for name in names] == layers


def test_a_residual_block_is_one_block() -> None:
    assignment = assign_blocks(prepare(build("resnet"), SHAPE).module)
    assert assignment["blocks_1_conv1"] == assignment["blocks_1_conv2"]
    assert assignment["blocks_1_conv1"] == assignment["blocks_1_downsample_0"]
    assert assignment["blocks_0_conv1"] != assignment["blocks_1_conv1"]
    # The max-pool has no weights: it belongs to the stem before it.
    assert assignment["stem_0"] == assignment["pool"] == 0


@pytest.mark.parametrize("name", [*BRANCHING, "two heads"])
def test_no_block_is_long_whatever_is_alive(name: str) -> None:
    graph = two_heads().module if name == "two heads" else prepare(branching(name), SHAPE).module
    assert sum(sizes(graph)) > LONG
    assert len({*where_one_tensor_is_alive(graph).values()}) < len(sizes(graph))
    assert max(sizes(graph)) <= LONG
    assert min(sizes(graph)) > 0


@pytest.mark.parametrize("name", BRANCHING)
@pytest.mark.parametrize("long", [1, 3])
def test_the_bound_is_kept_whatever_it_is(name: str, long: int) -> None:
    graph = prepare(branching(name), SHAPE).module
    with patch.object(cutting, "LONG", long):
        assert max(sizes(graph)) <= long


def test_what_is_long_is_cut_between_building_blocks() -> None:
    graph = prepare(branching("unet"), SHAPE).module
    assignment = assign_blocks(graph)
    for node in graph.graph.nodes:
        if (scope := node.meta["scope"]) is not None and isinstance(module_of(graph, node), LAYERS):
            others = [n for n in graph.graph.nodes if n.meta["scope"] == scope and n.name in assignment]
            assert assignment[node.name] in {assignment[n.name] for n in others if n is not node}
    assert assignment["down_0_first_0"] != assignment["down_1_first_0"] != assignment["down_2_first_0"]
    # As few numbers as possible go from block to block: what is kept for the way up is pooled again.
    assert assignment["max_pool2d"] == assignment["down_1_first_0"]


def test_a_network_that_ends_in_integers_has_a_block_for_them() -> None:
    class Places(nn.Module):
        """A segmentation that gives the class of each pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.second(self.first(x).relu()).relu().argmax(1)

    graph = prepare(Places().eval(), SHAPE).module
    assert sizes(graph) == [1, 1, 0]
    *_, logits, places = split(graph, assign_blocks(graph))
    assert places.inputs == logits.outputs == ("relu_1",)


def test_integers_and_what_mixes_images_cross_no_boundary() -> None:
    class Mixed(nn.Module):
        """Sixteen layers, across which the largest entries' places and a sum over the batch are alive."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(16))

        def forward(self, x):  # type: ignore[no-untyped-def]
            places = x.argmax(1, keepdim=True)
            for layer in self.layers:
                x = layer(x)
            return (x + places).mean((2, 3))

    assert sizes(prepare(Mixed().eval(), SHAPE).module) == [16]
