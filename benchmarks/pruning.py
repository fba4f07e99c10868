"""What pruning without data leaves of a network: accuracy after removal and after each step of repair.

    python -m benchmarks.pruning DATA [--networks resnet20,...] [--sources real,mixmix,noise] [--budgets 1.25x,1.5x,2x,3x]
                                      [--scores gradient,...] [--allocations loss-per-cost,...] [--granules 8] [--seeds 0]
                                      [--blocks 0] [--features 1000] [--network 1000] [--test 5000]

DATA is described in benchmarks/networks.py, sources in benchmarks/sources.py: their images stay in runs/datafree, and are taken from there if they
are there. Rows are added to results/pruning.json as they are finished. results/pruning.md is made from it.

Accuracy is that of the float network, on images that no source has seen; of --test of them, evenly spaced. Nothing is trained: no label is read
before that.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks import networks
from benchmarks.datafree import logits_of
from benchmarks.rows import add_rows, footer, with_spread
from benchmarks.sources import make_images, source_of
from ptq.config.choices import Score
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import Model
from ptq.pruning.config import PruneConfig
from ptq.pruning.pruning import prune
from ptq.pruning.results import RepairStep
from ptq.pruning.selection.ranking import Ranking, rank
from ptq.utils.environment import environment
from ptq.utils.metrics import top1

KEYS = (
    "network",
    "source",
    "budget",
    "score",
    "allocation",
    "granule",
    "blocks",
    "features",
    "iterations",
    "seed",
    "test_images",
)
USUAL = {"score": PruneConfig().score, "allocation": PruneConfig().allocation, "blocks": 0}  # of rows of the default
STEPS = {
    "removal": "no repair",
    "closed form": "closed form",
    "blocks": "+ blocks",
    "features": "+ features",
    "outputs": "+ outputs",
}


class Watcher:
    """Looks at a network after every step of repair.

    Args:
        model: says how images are normalized.
        images: to judge by, uint8 (N, 3, H, W).
        labels: of those, (N,).

    Attributes:
        steps: a row for every step.
    """

    def __init__(self, model: Model, images: Tensor, labels: Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.steps: list[dict[str, Any]] = []

    def __call__(self, step: RepairStep, network: nn.Module) -> None:
        accuracy = self.accuracy(network) if step.kept else self.steps[-1]["top1"]
        kl, seconds = round(step.loss, 5), round(step.seconds, 1)
        self.steps.append({"name": step.name, "top1": accuracy, "kl": kl, "kept": step.kept, "seconds": seconds})

    def accuracy(self, network: nn.Module) -> float:
        """Return top-1 in percent."""
        return round(top1(logits_of(network, self.model, self.images), self.labels), 2)


@dataclass(frozen=True)
class Ranked:
    """A network, images to prune it with, and what its channels are worth on these."""

    model: Model
    graph_model: GraphModel
    inputs: Tensor
    ranking: Ranking


@lru_cache(maxsize=1)  # budgets come one after the other
def ranked(network: str, source: str, seed: int, score: Score, data: Path) -> Ranked:
    """Rank the channels of one network on one source's images."""
    model = networks.load(network, data)
    inputs = model.preprocess.normalize(make_images(source, network, model, data, seed).floats())
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    return Ranked(model, graph_model, inputs, rank(graph_model, inputs, score))


def measure(network: str, source: str, seed: int, config: PruneConfig, data: Path, test: int) -> dict[str, Any]:
    """Prune one network with one source's images, and look at it after every step."""
    known = ranked(network, source, seed, config.score, data)
    config = config.for_images(*known.model.preprocess.size)
    look = Watcher(known.model, *networks.images(network, data, known.model).spaced(test))
    _, result = prune(known.graph_model, known.inputs, config, ranking=known.ranking, on_step=look)
    return {
        "network": network,
        "source": source,
        "budget": config.budget,
        "score": config.score,
        "allocation": config.allocation,
        "granule": config.granule,
        "blocks": config.block_iterations,
        "features": config.feature_iterations,
        "iterations": config.network_iterations,
        "seed": seed,
        "images": len(known.inputs),
        "test_images": len(look.labels),
        "top1_float": look.accuracy(known.graph_model.module),
        "macs": round(result.macs[0] / result.macs[1], 3),
        "parameters": round(result.parameters[0] / result.parameters[1], 3),
        "steps": look.steps,
        "lr": [config.lr_blocks, config.lr_network],
        "temperature": config.temperature,
        "batch": config.batch,
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per network, number of test images and iterations."""
    yield "# What pruning leaves of a network"
    yield "\nMade by `python -m benchmarks.pruning DATA`.\n"
    yield "- Cells have top-1 in percent on images that no source has seen, in float."
    yield "- *fewer* is how many times fewer multiply-accumulates and parameters there are."
    yield "- A step in brackets did not bring the outputs nearer on the images apart, and was taken back."
    yield from summary(rows)
    settings = ("network", "test_images", "blocks", "features", "iterations")
    for chosen in sorted({tuple(r[k] for k in settings) for r in rows}, key=str):
        mine = [r for r in rows if tuple(r[k] for k in settings) == chosen]
        network, test, blocks, features, iterations = chosen
        yield f"\n## {network}: {blocks} iterations for a block, {features} by features, {iterations} by outputs"
        yield f"\nFloat: {mine[0]['top1_float']:.2f} %, {test} test images, {mine[0]['images']} images to repair with.\n"
        head = ("budget", "images", "score, allocation", "granule", "seed", "fewer", *STEPS.values())
        yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
        for r in sorted(mine, key=lambda r: (factor(r["budget"]), r["source"])):
            fewer = f"{r['macs']:.2f}, {r['parameters']:.2f}"
            about = (
                r["budget"],
                source_of(r["source"]).title,
                f"{r['score']}, {r['allocation']}",
                r["granule"],
                r["seed"],
                fewer,
            )
            yield f"| {' | '.join(map(str, about))} | {' | '.join(step_cells(r))} |"
    yield footer(rows)


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a table of what is left after all repair, with channels chosen as they are by default: the mean over seeds, the lowest and the highest."""
    usual = USUAL | {"granule": PruneConfig().granule}
    mine = [r for r in rows if r["features"] and usual.items() <= r.items()]
    budgets = sorted({r["budget"] for r in mine}, key=factor)
    yield "\n## After all repair\n"
    yield "The mean over seeds, and the lowest to the highest where there are several.\n"
    yield f"| network | iterations | images | float | {' | '.join(budgets)} |\n|{' --- |' * (4 + len(budgets))}"
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in mine:
        lines.setdefault((r["network"], -r["test_images"], r["features"], r["source"]), []).append(r)
    for (network, _, features, source), of_line in sorted(lines.items()):
        cells = [_over_seeds([r for r in of_line if r["budget"] == budget]) for budget in budgets]
        about = (network, features, source_of(source).title, f"{of_line[0]['top1_float']:.2f}")
        yield f"| {' | '.join(map(str, about))} | {' | '.join(cells)} |"


def _over_seeds(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values = [r["steps"][-1]["top1"] for r in rows]
    return with_spread(values) if len(values) > 1 else f"{values[0]:.2f}"


def factor(budget: str) -> float:
    """The number of a budget."""
    return float(budget.rstrip("x%"))


def step_cells(row: dict[str, Any]) -> list[str]:
    """The accuracy after each of STEPS."""
    found = {step["name"]: step for step in row["steps"]}
    texts = {name: f"{step['top1']:.2f}" if step["kept"] else f"({step['top1']:.2f})" for name, step in found.items()}
    return [texts.get(name, "") for name in STEPS]


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    default = PruneConfig()
    parser.add_argument("--networks", default="resnet20,resnet56,vgg8_bn,mobilenetv2_x0_5")
    parser.add_argument("--sources", default="real,mixmix,noise")
    parser.add_argument("--budgets", default="1.25x,1.5x,2x,3x")
    parser.add_argument("--scores", default=default.score)
    parser.add_argument("--allocations", default=default.allocation)
    parser.add_argument("--granules", default=str(default.granule))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--blocks", type=int, default=default.block_iterations, help="iterations for a block")
    parser.add_argument("--features", type=int, help="iterations by features; as many as by outputs when not given")
    parser.add_argument("--network", type=int, help="iterations by outputs; as many as the images allow when not given")
    parser.add_argument("--test", type=int, default=5000, help="images to judge by")
    o = parser.parse_args()
    lists = (o.networks, o.sources, o.seeds, o.scores, o.budgets, o.allocations, o.granules)
    for network, source, seed, score, budget, allocation, granule in itertools.product(*(t.split(",") for t in lists)):
        config = PruneConfig(
            budget,
            score=score,
            allocation=allocation,
            granule=int(granule),
            block_iterations=o.blocks,
            network_iterations=o.network,
            feature_iterations=o.features,
            seed=int(seed),
        )
        row = measure(network, source, int(seed), config, o.data, o.test)
        add_rows("pruning", [row], KEYS, page)
        print(json.dumps({key: row[key] for key in (*KEYS, "macs", "top1_float", "steps")}), flush=True)


if __name__ == "__main__":
    main()
