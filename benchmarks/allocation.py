"""How bits are chosen: the exact solver beside a greedy and a genetic search, and what harms of pairs of layers would tell besides.

    python -m benchmarks.allocation DATA [--networks resnet20,...] [--parts solvers,pairs] [--shares 0.15,0.3,0.5] [--source real] [--seed 0]

DATA is described in benchmarks/networks.py, images in benchmarks/sources.py. Nothing is tuned here: weights are rounded in closed form.

Solvers get the same harms and the same budget, a share of the way from the smallest file to the largest. The greedy one takes bits from the layer that it harms least for a byte, until the file is small
enough. The genetic one is BRECQ's (Li et al., ICLR 2021): 50 choices, of which the best 10 have children by mutation (each layer with probability 0.1) and by crossover, 100 times; what is too
large is drawn again. It is stopped when it has taken as long as the exact solver, too.

Pairs: each layer and the next, at 2 and 4 bits both. What they do together beyond what each does alone is added to the sum over layers, and both sums are compared with what random choices do.

Rows are added to results/allocation.json. results/allocation.md is made from it.
"""

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import networks
from benchmarks.rows import Rows, add_rows, footer
from benchmarks.sources import make_images
from ptq.allocation.allocate import Choices, find_choices
from ptq.allocation.harms import Measured, Rounded, RoundedWeight, measure_together
from ptq.allocation.results import Tradeoffs
from ptq.allocation.solver import fill, solve
from ptq.calibration import calibrate
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.affine import per_channel
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment

KEYS = ("network", "part", "case", "way")
IMAGES = 32
TESTED = 500  # images that the divergence is measured on
POPULATION, PARENTS, GENERATIONS, MUTATION = 50, 10, 100, 0.1
CHOICES = 24  # random ones, that predictions are compared with
Bits = dict[str, int]


def greedy(tradeoffs: Tradeoffs, budget: int) -> Bits:
    """Take bits from the layer that it harms least for a byte, until the file is small enough; then give back what fits."""
    bits = {layer.name: layer.widths[-1].bits for layer in tradeoffs.layers}
    while tradeoffs.size(bits) > budget:
        steps = [
            ((width.harm - now.harm) / (now.size - width.size), layer.name, width.bits)
            for layer in tradeoffs.layers
            for now in [layer.of(bits[layer.name])]
            for width in layer.widths
            if width.size < now.size
        ]
        _, name, fewer = min(steps)
        bits[name] = fewer
    return fill(tradeoffs, bits, budget)


def genetic(tradeoffs: Tradeoffs, budget: int, seed: int, seconds: float) -> Bits:
    """BRECQ's search, for 100 generations or so many seconds."""
    draw, started = random.Random(seed), time.process_time()
    widths = {layer.name: [width.bits for width in layer.widths] for layer in tradeoffs.layers}

    def fitting(make: Callable[[], Bits]) -> Bits:
        """What is small enough; where chance does not give it, every layer that is drawn gets its fewest bits."""
        found = make()
        names = draw.sample([*found], len(found))
        while tradeoffs.size(found) > budget:
            name = names.pop()
            found[name] = widths[name][0]
        return found

    population = [
        fitting(lambda: {name: draw.choice(bits) for name, bits in widths.items()}) for _ in range(POPULATION)
    ]
    for _ in range(GENERATIONS):
        parents = sorted(population, key=tradeoffs.harm)[:PARENTS]
        if time.process_time() - started > seconds:
            break

        def mutated(parents: list[Bits] = parents) -> Bits:
            one = draw.choice(parents)
            return {n: draw.choice(widths[n]) if draw.random() < MUTATION else bits for n, bits in one.items()}

        def crossed(parents: list[Bits] = parents) -> Bits:
            one, other = draw.choice(parents), draw.choice(parents)
            return {name: draw.choice((one[name], other[name])) for name in one}

        children = [fitting(make) for make in (mutated, crossed) for _ in range((POPULATION - PARENTS) // 2)]
        population = parents + children
    return min(population, key=tradeoffs.harm)


def measure_solvers(
    network: str, graph_model: GraphModel, choices: Choices, test: torch.Tensor, shares: list[float]
) -> Iterator[dict[str, Any]]:
    """Solve one problem after the other in every way."""
    tradeoffs = choices.tradeoffs
    solve(tradeoffs, (tradeoffs.least() + tradeoffs.most()) // 2)  # what the first one loads
    for share in shares:
        budget = round(tradeoffs.least() + share * (tradeoffs.most() - tradeoffs.least()))
        exact, taken = _timed(partial(solve, tradeoffs, budget))
        ways: dict[str, tuple[Bits, float]] = {
            "exact": (exact, taken),
            "greedy": _timed(partial(greedy, tradeoffs, budget)),
        }
        for seed in range(3):
            ways[f"genetic, as long, seed {seed}"] = _timed(partial(genetic, tradeoffs, budget, seed, taken))
            ways[f"genetic, 100 generations, seed {seed}"] = _timed(partial(genetic, tradeoffs, budget, seed, math.inf))
        for way, (bits, seconds) in ways.items():
            whole = measure_together(graph_model, choices.rounded(bits), test)
            yield {
                **{"network": network, "part": "solvers", "case": f"{budget / 1e3:.1f} kB", "way": way},
                **{"seconds": round(seconds, 4), "size": tradeoffs.size(bits), "harm": tradeoffs.harm(bits)},
                **{
                    "excess": tradeoffs.harm(bits) / tradeoffs.harm(exact) - 1,
                    "measured": whole.harm,
                    "kl": whole.loss,
                },
                **environment(),
            }


def measure_pairs(
    network: str, graph_model: GraphModel, choices: Choices, inputs: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """Compare what layers predict, alone and with the next, with what random choices do, for both ways of rounding."""
    names = [layer.name for layer in choices.tradeoffs.layers if len(layer.widths) > 1]
    draw = random.Random(0)
    tried = []
    for _ in range(CHOICES):
        share = draw.choice((0.1, 0.3, 0.6))
        tried.append({name: 2 if draw.random() < share else 4 for name in names})
    for way, weights in (("closed form", choices.weights), ("nearest", _nearest(graph_model, choices))):

        def measured(bits: Mapping[str, int], weights: Rounded = weights) -> Measured:
            return measure_together(graph_model, {n: weights[n][b] for n, b in bits.items()}, inputs)

        started = time.process_time()
        alone = {(name, bits): measured({name: bits}) for name in names for bits in (2, 4)}
        singles = time.process_time() - started
        started = time.process_time()
        both = {
            (a, b, i, j): measured({a: i, b: j})
            for a, b in itertools.pairwise(names)
            for i, j in itertools.product((2, 4), repeat=2)
        }
        pairs = time.process_time() - started
        whole = [measured(bits) for bits in tried]
        row: dict[str, Any] = {"network": network, "part": "pairs", "case": f"{CHOICES} random choices", "way": way}
        for unit in ("harm", "loss"):
            of = {key: getattr(value, unit) for key, value in alone.items()}
            of_pairs = {key: getattr(value, unit) for key, value in both.items()}
            sums = [sum(of[name, bits] for name, bits in choice.items()) for choice in tried]
            extra = [
                sum(
                    of_pairs[a, b, choice[a], choice[b]] - of[a, choice[a]] - of[b, choice[b]]
                    for a, b in itertools.pairwise(names)
                )
                for choice in tried
            ]
            wanted = np.array([getattr(value, unit) for value in whole])
            for kind, found in (("singles", np.array(sums)), ("pairs", np.array(sums) + np.array(extra))):
                logs = np.log(np.maximum(found, 1e-9) / wanted)
                row[f"{unit}_{kind}"] = {
                    "spearman": round(float(spearmanr(found, wanted).statistic), 3),
                    "ratio": round(float(np.exp(np.median(logs))), 3),
                    "spread": round(float(np.exp(logs.std())), 3),
                }
        yield row | {
            "layers": len(names),
            "cpu_seconds_singles": round(singles, 1),
            "cpu_seconds_pairs": round(pairs, 1),
            **environment(),
        }


def _nearest(graph_model: GraphModel, choices: Choices) -> Rounded:
    """The nearest codes, with the same scales."""
    graph, found = graph_model.module, {}
    for node in graph.graph.nodes:
        if node.name not in choices.weights:
            continue
        layer = module_of(graph, node)
        assert isinstance(layer, LAYERS)
        found[node.name] = {
            bits: replace(one, codes=_codes(layer.weight.detach(), one, bits))
            for bits, one in choices.weights[node.name].items()
        }
    return found


def _codes(weight: torch.Tensor, rounded: RoundedWeight, bits: int) -> torch.Tensor:
    codes = (weight / per_channel(rounded.scale, weight, rounded.axis)).round()
    return codes.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)


def _timed(make: Callable[[], Bits]) -> tuple[Bits, float]:
    started = time.process_time()
    return make(), time.process_time() - started


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# How bits are chosen\n"
    yield "Made by `python -m benchmarks.allocation DATA`. Nothing is tuned. A harm is the sum over layers, as a multiple of the exact solver's. What follows was measured with all"
    yield "layers rounded: the error of the output, and the divergence from the float network's predictions in thousandths of a nat."
    for network in dict.fromkeys(r["network"] for r in rows):
        mine = [r for r in rows if r["network"] == network]
        if solvers := [r for r in mine if r["part"] == "solvers"]:
            yield f"\n## {network}: solvers\n"
            yield ("| budget | way | seconds of a core | harm | error of the output | divergence |\n|" + " --- |" * 6)
            for r in sorted(solvers, key=lambda r: (r["case"], r["excess"])):
                yield f"| {r['case']} | {r['way']} | {r['seconds']:.3f} | {1 + r['excess']:.2f} | {100 * r['measured']:.3g} % | {1e3 * r['kl']:.3g} |"
        if pairs := [r for r in mine if r["part"] == "pairs"]:
            yield f"\n## {network}: layers alone, and with the next\n"
            yield "Of predictions of random choices of 2 and 4 bits: the rank correlation with what was measured, the median of predicted over measured, and the factor by which that varies.\n"
            yield (
                "| rounding | figure | from layers alone | with pairs | seconds of a core, layers | pairs |\n|"
                + " --- |" * 6
            )
            for r in pairs:
                for unit, words in (("harm", "error of the output"), ("loss", "divergence")):
                    cells = [
                        f"{c['spearman']:.2f}, {c['ratio']:.2f}, {c['spread']:.2f}"
                        for c in (r[f"{unit}_singles"], r[f"{unit}_pairs"])
                    ]
                    yield f"| {r['way']} | {words} | {' | '.join(cells)} | {r['cpu_seconds_singles']:.0f} | {r['cpu_seconds_pairs']:.0f} |"
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20,mobilenetv2_x0_5")
    parser.add_argument("--parts", default="solvers,pairs")
    parser.add_argument("--shares", default="0.15,0.3,0.5")
    parser.add_argument("--source", default="real")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for network in options.networks.split(","):
        model = networks.load(network, options.data)
        images = make_images(options.source, network, model, options.data, options.seed)
        inputs = model.preprocess.normalize(images.floats())
        graph_model = prepare(model.module, (3, *model.preprocess.size))
        wide = insert_quantizers(graph_model, make_plan(graph_model, 8))
        calibrate(wide, inputs, preprocess=model.preprocess, seed=options.seed)
        choices = find_choices(wide, inputs, count=IMAGES)
        test, _ = networks.images(network, options.data, model).spaced(TESTED)
        rows: list[Iterator[dict[str, Any]]] = []
        if "solvers" in options.parts:
            shares = [float(share) for share in options.shares.split(",")]
            rows.append(
                measure_solvers(network, graph_model, choices, model.preprocess.normalize(test.float() / 255), shares)
            )
        if "pairs" in options.parts:
            rows.append(measure_pairs(network, graph_model, choices, inputs[:: max(1, len(inputs) // IMAGES)][:IMAGES]))
        for row in itertools.chain(*rows):
            add_rows("allocation", [row], KEYS, page)
            print(json.dumps({k: v for k, v in row.items() if k not in ("versions", "machine")}), flush=True)


if __name__ == "__main__":
    main()
