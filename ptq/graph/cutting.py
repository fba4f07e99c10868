"""Where a graph is cut into blocks, the units of reconstruction (BRECQ, Li et al., ICLR 2021).

Found on the graph, with no code per model. The order of computation is cut wherever exactly one tensor is alive, and
neighboring pieces that belong to one building block of the original model are joined. What is still long, because
several tensors are alive all along it, is cut between building blocks, and then at the outermost boundaries of modules
or where the fewest numbers are alive. Blocks then read and give several tensors.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.rows import rows_of

__all__ = ["LONG", "assign_blocks"]

LONG = 12  # layers: a block that has more is cut further, where the graph gives a place to


def assign_blocks(graph: fx.GraphModule) -> dict[str, int]:
    """Return for every computing node the index of its block, from 0 in order of computation.

    Args:
        graph: a prepared network.

    Example:
        >>> max(assign_blocks(graph_model.module).values()) + 1
        5
    """
    order = [n for n in graph.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    alive = _alive(graph, order)
    blocks: list[list[fx.Node]] = []
    start = 0
    for block in _building_blocks(graph, order, alive):
        blocks += _shortened(graph, block, alive[start : start + len(block)])
        start += len(block)
    blocks[-1:] = _without_end(graph, blocks[-1], alive[-len(blocks[-1]) :])
    return {node.name: index for index, block in enumerate(blocks) for node in block}


@dataclass(frozen=True)
class _Alive:
    """What is alive behind a node: how many values, and how many numbers of an image; infinite where not all can be kept."""

    values: int
    numel: float

    @property
    def single(self) -> bool:
        return self.values == 1 and self.numel < math.inf


def _alive(graph: fx.GraphModule, order: list[fx.Node]) -> list[_Alive]:
    """What is alive behind every node; only tensors with rows for every image can be kept."""
    position = {node: i for i, node in enumerate(order)}
    last_use = {
        node: max((position.get(user, len(order)) for user in node.users), default=-1)
        for node in graph.graph.nodes
        if node.op != "get_attr"
    }
    alive = {node for node in graph.graph.nodes if node.op == "placeholder"}
    found = []
    for i, node in enumerate(order):
        alive = {value for value in alive | {node} if last_use[value] > i}
        found.append(_Alive(len(alive), sum(n.meta["numel"] if rows_of(n) else math.inf for n in alive)))
    return found


def _building_blocks(graph: fx.GraphModule, order: list[fx.Node], alive: list[_Alive]) -> list[list[fx.Node]]:
    """Cut wherever one tensor is alive, and join pieces that share a building block of the model or have no layers."""
    pieces: list[list[fx.Node]] = [[]]
    for node, behind in zip(order, alive, strict=True):
        pieces[-1].append(node)
        if behind.single:
            pieces.append([])
    joined: list[list[fx.Node]] = []
    scopes: list[set[str | None]] = []
    for piece in filter(None, pieces):
        layers = _layers(graph, piece)
        own = {n.meta.get("scope") for n in layers}
        shared = bool(joined) and any(scope is not None and scope in scopes[-1] for scope in own)
        if joined and (not layers or shared or not scopes[-1]):
            joined[-1] += piece
            scopes[-1] |= own
        else:
            joined.append(list(piece))
            scopes.append(own)
    return joined


def _without_end(graph: fx.GraphModule, block: list[fx.Node], alive: list[_Alive]) -> list[list[fx.Node]]:
    """Cut the last block behind its layers where it ends in integers (places of the largest scores): no gradient comes from them."""
    if alive[-1].numel < math.inf:
        return [block]
    last = max((i for i, node in enumerate(block) if isinstance(module_of(graph, node), LAYERS)), default=len(block))
    places = [i + 1 for i in range(last, len(block)) if alive[i].numel < math.inf]
    return [block[: places[-1]], block[places[-1] :]] if places else [block]


@dataclass(frozen=True)
class _Place:
    """Between two layers, where a stretch can be cut: right before the node at an index.

    Args:
        index: of the node.
        layer: how many layers are before it.
        between: whether the layers on its sides belong to different building blocks.
        depth: how many modules hold both of them.
        numel: numbers of an image that are alive.
    """

    index: int
    layer: int
    between: bool
    depth: int
    numel: float


def _shortened(graph: fx.GraphModule, block: list[fx.Node], alive: list[_Alive]) -> list[list[fx.Node]]:
    """Cut a block that is too long: between all building blocks in it, and then in two until nothing is too long."""
    layers = _layers(graph, block)
    if len(layers) <= LONG:
        return [block]
    places = _places(block, layers, alive)
    chosen = [place for place in places if place.between]
    ends = [_Place(0, 0, True, 0, 0.0), *chosen, _Place(len(block), len(layers), True, 0, 0.0)]
    for first, last in pairwise(ends):
        chosen += _bisected([p for p in places if first.index < p.index < last.index], first.layer, last.layer)
    cuts = [0, *sorted(place.index for place in chosen), len(block)]
    return [block[start:stop] for start, stop in pairwise(cuts)]


def _bisected(places: list[_Place], first: int, last: int) -> list[_Place]:
    """Choose where to cut between the layers `first` and `last`, so that no piece is too long if places allow.

    At the outermost boundary of modules first, of those where the fewest numbers are alive; but as long as there is a
    choice, not so near an end that most of a piece would be left.
    """
    if last - first <= LONG or not places:
        return []
    quarter = (last - first) / 4
    middle = [p for p in places if first + quarter <= p.layer <= last - quarter]
    best = min(middle or places, key=lambda p: (p.depth, p.numel))
    before = _bisected([p for p in places if p.index < best.index], first, best.layer)
    return [*before, best, *_bisected([p for p in places if p.index > best.index], best.layer, last)]


def _places(block: list[fx.Node], layers: list[fx.Node], alive: list[_Alive]) -> list[_Place]:
    """The best place between every two layers: where the fewest numbers are alive, the last of several."""
    position = {node: i for i, node in enumerate(block)}
    found = []
    for count, (left, right) in enumerate(pairwise(layers), 1):
        numel, index = min((alive[i].numel, -i) for i in range(position[left], position[right]))
        if numel < math.inf:
            scopes = left.meta.get("scope"), right.meta.get("scope")
            found.append(_Place(1 - index, count, scopes[0] != scopes[1], _shared_depth(left, right), numel))
    return found


def _shared_depth(left: fx.Node, right: fx.Node) -> int:
    """How many modules of the original model hold both nodes."""
    paths = (str(node.meta.get("module_path", "")).split(".") for node in (left, right))
    depth = 0
    for a, b in zip(*paths, strict=False):
        if a != b:
            break
        depth += 1
    return depth


def _layers(graph: fx.GraphModule, nodes: list[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if isinstance(module_of(graph, node), LAYERS)]
