"""What bits of their own are worth for every layer: files of the same size, uniform and mixed, through the same reconstruction.

    python -m benchmarks.mixed_bits DATA [--networks resnet20,...] [--bits 4,3,2] [--cases uniform,mixed,rule] [--seeds 0]
                                         [--iterations 200] [--source mixmix]

DATA is described in benchmarks/networks.py, images in benchmarks/sources.py. Cases:

    uniform    these bits for all layers but the first and the last, which have 8
    mixed      the best that a file of the same size can hold, as `ptq quantize --max-size` finds it, the ends among the layers that it may choose for
    rule       uniform with 8 bits for depthwise layers, as `--layer` gives by hand; its file is larger by these

Weights of 3 bits lie in a file as those of 4 do, and those of 5 to 7 as those of 8. So "mixed" is the same for all of them. What was tuned with the same bits before
is not tuned again.

Rows are added to results/mixed_bits.json as they are finished. results/mixed_bits.md is made from it.

Activations have 8 bits. Accuracy is that of the simulation on real numbers, on images that nothing was tuned with.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks import networks
from benchmarks.datafree import logits_of, scores
from benchmarks.rows import Rows, add_rows, footer, with_spread
from benchmarks.sources import make_images
from ptq.allocation.allocate import RESERVE, Choices, allocate, find_choices
from ptq.allocation.widths import change_widths
from ptq.calibration import calibrate
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.utils.environment import environment

CASES = ("uniform", "mixed", "rule")
KEYS = ("network", "case", "bits", "seed", "iterations")
TESTED = 2500  # images at most
CONTAINERS = (2, 4, 8)  # bits of a number in a file


def measure(
    network: str, widths: Sequence[int], cases: Sequence[str], seed: int, data: Path, iterations: int, source: str
) -> Iterator[dict[str, Any]]:
    """Quantize one network in all these ways, a row after the other."""
    model = networks.load(network, data)
    size = model.preprocess.size
    images = make_images(source, network, model, data, seed)
    inputs = model.preprocess.normalize(images.floats())
    test, labels = networks.images(network, data, model).spaced(TESTED)
    graph_model = prepare(model.module, (3, *size))
    wide = insert_quantizers(graph_model, make_plan(graph_model, 8))
    calibrate(wide, inputs, preprocess=model.preprocess, seed=seed)
    reference = logits_of(model.module, model, test)
    started = time.perf_counter(), time.process_time()
    choices = find_choices(wide, inputs)
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    config = replace(method_preset("qdrop", "default", size), iterations=iterations, seed=seed)
    tuned: dict[tuple[int, ...], Tensor] = {}
    for bits in widths:
        for case in cases:
            found, facts = _uniform(wide, bits), {}
            if case == "mixed":
                budget = choices.tradeoffs.size(_contained(choices, found)) + RESERVE
                allocation = allocate(wide, inputs, choices, budget, points=False)
                found, facts = allocation.bits, {"measured": allocation.measured, "rounds": allocation.rounds}
            elif case == "rule":
                found |= dict.fromkeys(_depthwise(wide), 8)
            started = time.perf_counter(), time.process_time()
            key = tuple(found[name] for name in wide.plan.weights)
            if key not in tuned:
                quantized_model = change_widths(wide, found)
                reconstruct(quantized_model, inputs, config)
                tuned[key] = logits_of(quantized_model.fake_quantized_forward, model, test)
            logits, contained = tuned[key], _contained(choices, found)
            yield {
                "network": network,
                "case": case,
                "bits": bits,
                "seed": seed,
                "iterations": iterations,
                "images": len(images),
                "source": source,
                "tested": len(labels),
                **scores(reference, logits, labels),
                "size": choices.tradeoffs.size(contained),
                "size_int8": choices.tradeoffs.most(),
                "predicted": choices.tradeoffs.harm(contained),
                **facts,
                "widths": found,
                "seconds_choices": round(seconds[0], 1),
                "cpu_seconds_choices": round(seconds[1], 1),
                "cpu_seconds": round(time.process_time() - started[1], 1),
                **environment(),
            }


def _uniform(wide: QuantizedModel, bits: int) -> dict[str, int]:
    """As `--bits` has it: all layers but the ends."""
    names = list(wide.plan.weights)
    return dict.fromkeys(names, bits) | {names[0]: 8, names[-1]: 8}


def _depthwise(wide: QuantizedModel) -> list[str]:
    """The layers with one input channel for each output channel."""
    convs = {name: layer.op for name, layer in wide.layers().items() if isinstance(layer.op, nn.Conv2d)}
    return [name for name, conv in convs.items() if 1 < conv.groups == conv.in_channels]


def _contained(choices: Choices, bits: dict[str, int]) -> dict[str, int]:
    """The widths in which these bits lie in a file."""
    return {
        layer.name: next(w.bits for w in layer.widths if w.bits >= bits[layer.name])
        for layer in choices.tradeoffs.layers
    }


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table per network."""
    yield "# Mixed bits at the bytes of uniform ones"
    yield "\nMade by `python -m benchmarks.mixed_bits DATA`.\n"
    yield "- A cell has top-1 in percent, the mean over seeds and the lowest to the highest; the divergence from the float network's predictions in thousandths of a"
    yield "  nat; and the bytes of the file."
    yield "- *rule* is uniform with 8 bits for depthwise layers."
    yield "- *error* is that of the output as a share of it, predicted before anything is tuned."
    for network in dict.fromkeys(r["network"] for r in rows):
        for iterations in sorted({r["iterations"] for r in rows if r["network"] == network}):
            yield from _table(network, [r for r in rows if (r["network"], r["iterations"]) == (network, iterations)])
    yield footer(rows)


def _table(network: str, rows: Rows) -> Iterator[str]:
    one = rows[0]
    yield f"\n## {network}, {one['images']} images ({one['source']}), {one['iterations']} iterations per block, {one['tested']:,} test images"
    yield f"\nFloat: {one['top1_float']:.2f} %, int8 {one['size_int8'] / 1e3:.1f} kB. Measuring all widths took {_mean(rows, 'cpu_seconds_choices'):.0f} seconds of one core.\n"
    yield f"| bits | seeds | {' | '.join(CASES)} | error, uniform | mixed |\n|{' --- |' * (len(CASES) + 4)}"
    for bits in sorted({r["bits"] for r in rows}, reverse=True):
        of = {case: [r for r in rows if (r["bits"], r["case"]) == (bits, case)] for case in CASES}
        seeds = ", ".join(map(str, sorted({r["seed"] for r in rows if r["bits"] == bits})))
        predicts = {"uniform": bits in CONTAINERS, "mixed": True}  # harms are measured for these widths alone
        errors = [
            f"{_mean(of[case], 'predicted'):.2g}" if of[case] and known else "" for case, known in predicts.items()
        ]
        yield f"| {bits} | {seeds} | {' | '.join(map(_cell, of.values()))} | {' | '.join(errors)} |"


def _cell(rows: Rows) -> str:
    if not rows:
        return ""
    top1 = with_spread([r["top1"] for r in rows])
    return f"{top1}<br>{1e3 * _mean(rows, 'kl'):.1f}<br>{_mean(rows, 'size') / 1e3:.1f} kB"


def _mean(rows: Rows, key: str) -> float:
    return float(statistics.mean(row[key] for row in rows))


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20,mobilenetv2_x0_5")
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument("--cases", default="uniform,mixed")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--source", default="mixmix")
    options = parser.parse_args()
    widths, cases = [int(bits) for bits in options.bits.split(",")], options.cases.split(",")
    for network in options.networks.split(","):
        for seed in map(int, options.seeds.split(",")):
            for row in measure(network, widths, cases, seed, options.data, options.iterations, options.source):
                add_rows("mixed_bits", [row], KEYS, page)
                shown = ("network", "seed", "case", "bits", "top1", "kl", "size", "predicted", "cpu_seconds")
                print(json.dumps({key: row[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
