"""Torch-Pruning beside ptq: its scores and its choice of channels, without training, and then repaired by ptq.

    python -m benchmarks.pruning_peers DATA --torch-pruning FOLDER [--networks resnet20,...] [--budgets 1.25x,1.5x,2x]
                                            [--scores l1,taylor] [--scopes global,local,isomorphic] [--sources real,mixmix]
                                            [--steps 400] [--network 1000] [--test 5000] [--seed 0]

DATA is described in benchmarks/networks.py, sources in benchmarks/sources.py. FOLDER has Torch-Pruning, which ptq does not depend on:
`pip install --no-deps --target FOLDER torch-pruning==1.6.1`.

It is given what its authors give it (reproduce/main.py in its repository): channels go in many small steps of all that there are, until there are
as few multiply-accumulates as asked for; within a step it ends, too. l1 is MagnitudeImportance(p=1), and taylor TaylorImportance(). Its gradients
are taken anew before every step, on the images of the source with their labels: those of a real image, or what a made one was made for. A scope
says which channels compete: all (global_pruning), those of a layer, or those of layers that are alike (isomorphic). Channels go one by one:
round_to, its granule, is left out.

Its pruned network is rebuilt in ptq's own graph from its pruning history, and must give the same outputs. So both are judged and repaired
alike. Rows of ptq are those of benchmarks/pruning.py with its default score and allocation, and with as many iterations and test images.

Torch-Pruning does not follow shortcuts without parameters: where channels are padded, it removes others than those, and the network breaks. CIFAR
ResNets have them. It is given the same function with 1x1 convolutions of zeros and ones in their place, less than 0.7 % more
multiply-accumulates.

Rows are added to results/pruning_peers.json as they are finished. results/pruning_peers.md is made from it.
"""

import argparse
import copy
import importlib
import importlib.metadata
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import networks
from benchmarks.pruning import STEPS, USUAL, Watcher, factor, step_cells
from benchmarks.rows import Rows, add_rows, footer, read_rows
from benchmarks.sources import make_images, source_of
from ptq.config.budgets import Budget, parse_budget
from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.config import PruneConfig
from ptq.pruning.coupling.channel_map import ChannelMap
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.selection.ranking import Ranking, unranked
from ptq.utils.environment import environment

KEYS = ("network", "source", "budget", "score", "scope", "steps_at_most", "iterations", "seed", "test_images")
BATCH = 64  # images at a time for gradients
SCOPES: dict[str, dict[str, bool]] = {
    "global": {"global_pruning": True},
    "local": {"global_pruning": False},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
SAME = 1e-3  # of the largest output: BatchNorms are folded in one network, and not in the other


@dataclass(frozen=True)
class Choice:
    """Which channels stay.

    Args:
        kept: whether a coupled channel of the prepared network stays, bool (coupled channels,).
        outputs: what Torch-Pruning's network gives for the example.
    """

    kept: Tensor
    outputs: Tensor


def with_projections(module: nn.Module, example: Tensor) -> nn.Module:
    """Return a network with 1x1 convolutions in the place of shortcuts that pad channels with zeros."""
    module, sizes = copy.deepcopy(module), dict[str, tuple[int, int]]()
    padding = {name: part for name, part in module.named_modules() if type(part).__name__ == "OptionA"}
    for name, part in padding.items():
        part.register_forward_hook(lambda _, x, y, name=name: sizes.update({name: (x[0].shape[1], y.shape[1])}))
    with torch.no_grad():
        module.eval()(example)
    for name, part in padding.items():
        inputs, outputs = sizes[name]
        projection = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        unit = torch.eye(inputs)[:, :, None, None]
        padded = functional.pad(unit, (0, 0, 0, 0, 0, 0, int(part.before), outputs - inputs - int(part.before)))
        projection.weight = nn.Parameter(padded)
        module.set_submodule(name, projection)
    return module


def choose(
    peer: Any,
    module: nn.Module,
    graph_model: GraphModel,
    ranking: Ranking,
    budgets: Sequence[str],
    learn: Callable[[nn.Module], object] | None,
    score: str,
    scope: str,
    steps: int,
) -> dict[str, Choice]:
    """Let Torch-Pruning remove channels step by step; return what is left when each budget is met.

    Args:
        peer: the package torch_pruning.
        module: the network that it prunes.
        graph_model: the same, prepared.
        ranking: of that one.
        budgets: ascending.
        learn: puts gradients of the loss into the parameters; None for a score that needs none.
        score: "l1" or "taylor".
        scope: of SCOPES.
        steps: in which all channels would go.
    """
    module, example = copy.deepcopy(module).eval().requires_grad_(True), graph_model.example(1)
    found, missing = dict[str, Choice](), [*budgets]
    classes = module(example).shape[1]
    importances = {"l1": lambda: peer.importance.MagnitudeImportance(p=1), "taylor": peer.importance.TaylorImportance}
    pruner = peer.pruner.BasePruner(
        module,
        example,
        importance=importances[score](),
        pruning_ratio=1.0,
        iterative_steps=steps,
        ignored_layers=[m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
        **SCOPES[scope],
    )
    kept, seen = torch.ones(ranking.channels.count, dtype=torch.bool), 0
    for _ in range(steps):
        if learn is not None:
            learn(module)
        for group in pruner.step(interactive=True):
            group.prune()
            history = pruner.pruning_history()
            kept, seen = kept_by(graph_model, ranking.channels, history[seen:], kept), len(history)
            while missing and share_of(ranking, kept) <= parse_budget(missing[0]).share:
                found[missing.pop(0)] = Choice(kept, module(example).detach())
            if not missing:
                return found
    return found


def kept_by(
    graph_model: GraphModel, channels: ChannelMap, history: Sequence[tuple[str, bool, Sequence[int]]], before: Tensor
) -> Tensor:
    """Return which coupled channels are left after a history of Torch-Pruning, bool (coupled channels,).

    Args:
        graph_model: the network, prepared.
        channels: of it.
        history: name of a layer, whether outputs of it were removed, and which of those that it had by then.
        before: those that were left until then; stays as it is.
    """
    names = {str(node.target): node.name for node in graph_model.module.graph.nodes if node.op == "call_module"}
    kept = before.clone()
    for layer, outputs, positions in history:
        if not outputs:
            raise ValueError(f"inputs of {layer} were removed by themselves, which ptq knows no groups for")
        ids = channels.of[names[layer]].ids
        kept[ids[kept[ids]][torch.tensor(positions, dtype=torch.int64)]] = False
    return kept


def share_of(ranking: Ranking, kept: Tensor, quantity: Literal["macs", "parameters"] = "macs") -> float:
    """What is left of the multiply-accumulates or the parameters, 0..1."""
    counts = torch.tensor([int(kept[group.ids].sum()) for group in ranking.groups])
    return float(ranking.costs.share(counts, Budget(quantity, 1.0)))


def measure(
    peer: Any, network: str, source: str, score: str, scope: str, o: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row per budget: its network as it is, and after each step of ptq's repair."""
    model = networks.load(network, o.data)
    calibration = make_images(source, network, model, o.data, o.seed)
    images, labels = model.preprocess.normalize(calibration.floats()), calibration.labels
    module = with_projections(model.module, images[:1])
    graph_model = prepare(module, (3, *model.preprocess.size))
    ranking = unranked(graph_model)
    judged = networks.images(network, o.data, model).spaced(o.test)
    top1_float = Watcher(model, *judged).accuracy(graph_model.module)

    def learn(network: nn.Module) -> None:
        network.zero_grad()
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            functional.cross_entropy(network(x), y).backward()

    learns, budgets = learn if score == "taylor" else None, o.budgets.split(",")
    choices = choose(peer, module, graph_model, ranking, budgets, learns, score, scope, o.steps)
    for budget, choice in choices.items():
        pruned = remove(graph_model, ranking.channels, choice.kept)
        _check_same(pruned, choice.outputs)
        config = PruneConfig(budget, block_iterations=0, network_iterations=o.network, seed=o.seed).for_images(
            *model.preprocess.size
        )
        watcher = Watcher(model, *judged)
        repair(graph_model, pruned, Survivors(ranking.channels, choice.kept), images, config, on_step=watcher)
        yield {
            "network": network,
            "source": source,
            "budget": budget,
            "score": score,
            "scope": scope,
            "steps_at_most": o.steps,
            "iterations": config.network_iterations,
            "seed": o.seed,
            "images": len(images),
            "test_images": len(watcher.labels),
            "top1_float": top1_float,
            "macs": round(1 / share_of(ranking, choice.kept), 3),
            "parameters": round(1 / share_of(ranking, choice.kept, "parameters"), 3),
            "steps": watcher.steps,
            "torch_pruning": importlib.metadata.version("torch-pruning"),
            **environment(),
        }


def _check_same(pruned: GraphModel, outputs: Tensor) -> None:
    """Stop where the rebuilt network is another than Torch-Pruning's."""
    with torch.no_grad():
        given = pruned.module(pruned.example(1))
    if float((given - outputs).abs().max()) > SAME * float(outputs.abs().max()):
        raise RuntimeError("the network rebuilt from Torch-Pruning's history does not give what its own gives")


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table per network, number of test images and of iterations."""
    yield "# Torch-Pruning and ptq\n"
    yield "Made by `python -m benchmarks.pruning_peers DATA --torch-pruning FOLDER`, which says what was done. Cells have top-1 in percent on images that no"
    yield "source has seen, in float. *Fewer* is how many times fewer multiply-accumulates and parameters there are. A step in brackets was taken back."
    settings = ("network", "test_images", "iterations", "seed")
    ours = [r for r in read_rows("pruning") if USUAL.items() <= r.items()]
    for chosen in sorted({tuple(r[k] for k in settings) for r in rows}, key=str):
        mine, ptq = ([r for r in every if tuple(r[k] for k in settings) == chosen] for every in (rows, ours))
        network, test, iterations, seed = chosen
        yield f"\n## {network}: {iterations} iterations for the network, seed {seed}"
        yield f"\nFloat: {mine[0]['top1_float']:.2f} %, {test} test images, {mine[0]['images']} images of each source.\n"
        head = ("budget", "images", "channels chosen by", "fewer", *STEPS.values())
        yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
        budgets = {r["budget"] for r in mine}
        lines = [(r, _choice(r)) for r in mine]
        lines += [(r, f"ptq: {r['score']}, granule {r['granule']}") for r in ptq if r["budget"] in budgets]
        for r, tool in sorted(lines, key=lambda line: (factor(line[0]["budget"]), line[0]["source"], line[1])):
            about = (r["budget"], source_of(r["source"]).title, tool, f"{r['macs']:.2f}, {r['parameters']:.2f}")
            yield f"| {' | '.join(about)} | {' | '.join(step_cells(r))} |"
    versions = sorted({r["torch_pruning"] for r in rows})
    yield footer(rows, f"; Torch-Pruning {', '.join(versions)}")


def _choice(row: dict[str, Any]) -> str:
    return f"Torch-Pruning: {row['score']}, {row['scope']}, steps of {100 / row['steps_at_most']:g} %"


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--torch-pruning", type=Path, required=True, help="folder that has the package")
    parser.add_argument("--networks", default="resnet20,resnet56,vgg8_bn,mobilenetv2_x0_5")
    parser.add_argument("--budgets", default="1.25x,1.5x,2x", help="ascending")
    parser.add_argument("--scores", default="l1,taylor")
    parser.add_argument("--scopes", default=",".join(SCOPES))
    parser.add_argument("--sources", default="real,mixmix")
    parser.add_argument("--steps", type=int, default=400, help="in which all channels would go")
    parser.add_argument(
        "--network", type=int, help="iterations for the network; as many as its images allow when not given"
    )
    parser.add_argument("--test", type=int, default=5000, help="images to judge by")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    sys.path.append(str(o.torch_pruning))
    peer = importlib.import_module("torch_pruning")
    lists = (o.networks, o.sources, o.scores, o.scopes)
    for network, source, score, scope in itertools.product(*(text.split(",") for text in lists)):
        for row in measure(peer, network, source, score, scope, o):
            add_rows("pruning_peers", [row], KEYS, page)
            print(json.dumps({key: row[key] for key in (*KEYS, "macs", "top1_float", "steps")}), flush=True)


if __name__ == "__main__":
    main()
