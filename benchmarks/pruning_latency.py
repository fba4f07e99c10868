"""How much of what pruning saves arrives as time: int8 files of whole and of pruned networks in onnxruntime.

    python -m benchmarks.pruning_latency [--networks resnet18,...] [--budgets 1.5x,2x] [--threads 1,2] [--runs 30]
                                         [--scores gradient] [--allocations loss-per-cost] [--granules 8]

Weights and images are random, with a seed. Latency depends on them only by how many channels of which layer the score leaves, and nothing is
repaired. Channels are chosen as `ptq quantize --prune` chooses them. The files of a network are run in turns, so that whatever else the machine
does meets all of them alike. Figures are medians.

*Arrives* is 1 - ms of the pruned file / ms of the int8 file, over 1 - multiply-accumulates of the pruned network / those of the whole one:
100 % where the time falls as the multiply-accumulates do.

Rows are added to results/pruning_latency.json as they are finished. results/pruning_latency.md is made from it. Nothing else should run on the
machine.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Rows, add_rows, footer
from ptq.calibration import calibrate
from ptq.config.budgets import parse_budget
from ptq.config.choices import Allocation, Score
from ptq.export import export_float, export_qdq, ort
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import load_model
from ptq.pruning.config import PruneConfig
from ptq.pruning.removal import remove
from ptq.pruning.selection.ranking import rank
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_lite0")
KEYS = ("network", "threads", "score", "allocation", "granule")
IMAGES = 8  # that give scores and ranges


def export_int8(graph_model: GraphModel, path: Path) -> Path:
    """Write a network with 8 bits and any ranges."""
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8))
    return export_qdq(calibrate(quantized_model, graph_model.example(IMAGES), observer="minmax"), path)


def measure(
    network: str,
    budgets: Sequence[str],
    threads: Sequence[int],
    score: Score,
    allocation: Allocation,
    granule: int,
    runs: int,
) -> Iterator[dict[str, Any]]:
    """One row per number of threads."""
    torch.manual_seed(0)
    model = load_model(network, pretrained=False)
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    ranking = rank(graph_model, graph_model.example(IMAGES), score)
    macs = {"int8": float(ranking.costs.cost(ranking.costs.full, "macs"))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"float": export_float(graph_model.module, folder / "float.onnx", graph_model.example(IMAGES))}
        files["int8"] = export_int8(graph_model, folder / "int8.onnx")
        for budget in budgets:
            counts, kept = ranking.choose(parse_budget(budget), granule, allocation)
            macs[budget] = float(ranking.costs.cost(counts, "macs"))
            files[budget] = export_int8(remove(graph_model, ranking.channels, kept), folder / f"{budget}.onnx")
        image = np.random.default_rng(0).standard_normal((1, *graph_model.input_shape), np.float32)
        for count in threads:
            opened = {name: partial(ort.run, ort.session(path, threads=count)) for name, path in files.items()}
            yield {
                "network": network,
                "threads": count,
                "score": score,
                "allocation": allocation,
                "granule": granule,
                "runs": runs,
                "ms": {k: round(v, 3) for k, v in ort.latencies(opened, image, runs).items()},
                "macs": {k: int(v) for k, v in macs.items()},
                **environment(),
            }


def arrives(row: dict[str, Any], budget: str) -> float:
    """The share of the multiply-accumulates saved that arrives as time.

    Example:
        >>> arrives({"ms": {"int8": 10.0, "2x": 6.0}, "macs": {"int8": 100, "2x": 50}}, "2x")
        0.8
    """
    less_time, less_work = (1.0 - row[what][budget] / row[what]["int8"] for what in ("ms", "macs"))
    return float(less_time / less_work)


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table per number of threads."""
    yield "# What pruning saves, in time\n"
    yield "Made by `python -m benchmarks.pruning_latency`, which says what *arrives*. Milliseconds in onnxruntime at batch 1, medians."
    yield "In parentheses: how many times fewer multiply-accumulates there are, exactly."
    for threads in sorted({row["threads"] for row in rows}):
        mine = sorted((r for r in rows if r["threads"] == threads), key=_place)
        budgets = sorted({name for r in mine for name in r["ms"]} - {"float", "int8"}, key=lambda b: float(b[:-1]))
        yield f"\n## {threads} thread{'s' if threads > 1 else ''}\n"
        pairs = [text for budget in budgets for text in (f"int8, {budget}", "arrives")]
        head = ("network", "score, allocation", "granule", "runs", "float", "int8", *pairs)
        yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
        for r in mine:
            cells = [r["network"], f"{r['score']}, {r['allocation']}", r["granule"], r["runs"]]
            cells += [f"{r['ms'][name]:.2f}" for name in ("float", "int8")]
            for budget in budgets:
                if budget in r["ms"]:
                    fewer = r["macs"]["int8"] / r["macs"][budget]
                    cells += [f"{r['ms'][budget]:.2f} ({fewer:.2f})", f"{100 * arrives(r, budget):.0f} %"]
                else:
                    cells += ["", ""]
            yield f"| {' | '.join(map(str, cells))} |"
    yield footer(rows)


def _place(row: dict[str, Any]) -> tuple[int, str, str, str, int]:
    order = NETWORKS.index(row["network"]) if row["network"] in NETWORKS else len(NETWORKS)
    return order, row["network"], row["score"], row["allocation"], row["granule"]


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = PruneConfig()
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--budgets", default="1.5x,2x")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--scores", default=default.score)
    parser.add_argument("--allocations", default=default.allocation)
    parser.add_argument("--granules", default=str(default.granule))
    o = parser.parse_args()
    threads = [int(count) for count in o.threads.split(",")]
    lists = (o.networks, o.scores, o.allocations, o.granules)
    for network, score, allocation, granule in itertools.product(*(text.split(",") for text in lists)):
        for row in measure(network, o.budgets.split(","), threads, score, allocation, int(granule), o.runs):
            add_rows("pruning_latency", [row], KEYS, page)
            print(json.dumps({key: row[key] for key in (*KEYS, "ms", "macs")}), flush=True)


if __name__ == "__main__":
    main()
