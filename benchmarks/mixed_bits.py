"""What bits of their own are worth for every layer: files of the same size, uniform and mixed, through the same reconstruction.

    python -m benchmarks.mixed_bits DATA [--networks resnet20,...] [--cases 4,3,2] [--seeds 0] [--iterations 200]
                                         [--source mixmix]

DATA is described in benchmarks/networks.py, images in benchmarks/sources.py. A case is a number of bits. "uniform" gives them to all layers but the
first and the last, which have 8. "mixed" is the best that a file of the same size can hold, as `ptq quantize --max-size` finds it, the ends among the
layers that it may choose for. Weights of 3 bits lie in the file as those of 4 do. So there "mixed" has the bytes that weights of 3 bits would take
if they were packed as tightly: half way between the files of 2 and of 4.

Rows are added to results/mixed_bits.json as they are finished. results/mixed_bits.md is made from it.

Activations have 8 bits. Accuracy is that of the simulation on real numbers, on images that nothing was tuned with.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.datafree import logits_of
from benchmarks.rows import Rows, add_rows, footer
from benchmarks.sources import make_images
from ptq.allocation.allocate import Choices, allocate, find_choices
from ptq.allocation.widths import change_widths
from ptq.calibration import calibrate
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.utils.environment import environment
from ptq.utils.metrics import kl_divergence, top1

KEYS = ("network", "case", "bits", "seed", "iterations")
TESTED = 2500  # images at most


def measure(
    network: str, cases: list[int], seed: int, data: Path, iterations: int, source: str
) -> Iterator[dict[str, Any]]:
    """Quantize one network uniformly and mixed, a row after the other."""
    model = networks.load(network, data)
    size = model.preprocess.size
    images = make_images(source, network, model, data, seed)
    inputs = model.preprocess.normalize(images.floats())
    real = networks.images(network, data, model)
    test, labels = real.test[:TESTED], real.labels[:TESTED]
    graph_model = prepare(model.module, (3, *size))
    wide = insert_quantizers(graph_model, make_plan(graph_model, 8))
    calibrate(wide, inputs, preprocess=model.preprocess, seed=seed)
    reference = logits_of(model.module, model, test)
    started = time.perf_counter(), time.process_time()
    choices = find_choices(wide, inputs)
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    config = replace(method_preset("qdrop", "default", size), iterations=iterations, seed=seed)
    for bits in cases:
        uniform = _uniform(choices, wide, bits)
        # Weights of 3 bits lie in containers of 4; packed tightly they would take what is half way between 2 and 4.
        sizes = [choices.tradeoffs.size(_uniform(choices, wide, b)) for b in ((2, 4) if bits == 3 else (bits,))]
        budget = round(statistics.mean(sizes))
        mixed = allocate(wide, inputs, choices, budget + 64, points=False)
        for case, found in (
            ("uniform", uniform if bits != 3 else dict.fromkeys(uniform, 3) | _ends(wide)),
            ("mixed", mixed.bits),
        ):
            quantized_model = change_widths(wide, found)
            reconstruct(quantized_model, inputs, config)
            logits = logits_of(quantized_model.fake_quantized_forward, model, test)
            yield {
                "network": network,
                "case": case,
                "bits": bits,
                "seed": seed,
                "iterations": iterations,
                "images": len(images),
                "source": source,
                "tested": len(labels),
                "top1": round(top1(logits, labels), 3),
                "top1_float": round(top1(reference, labels), 3),
                "kl": round(kl_divergence(reference, logits), 5),
                "size": choices.tradeoffs.size(_contained(choices, found)),
                "predicted": choices.tradeoffs.harm(_contained(choices, found)),
                "measured": mixed.measured if case == "mixed" else None,
                "rounds": mixed.rounds if case == "mixed" else None,
                "widths": found,
                "seconds_choices": round(seconds[0], 1),
                "cpu_seconds_choices": round(seconds[1], 1),
                **environment(),
            }


def _ends(wide: QuantizedModel) -> dict[str, int]:
    names = list(wide.plan.weights)
    return {names[0]: 8, names[-1]: 8}


def _uniform(choices: Choices, wide: QuantizedModel, bits: int) -> dict[str, int]:
    """As `--bits` has it: all layers but the ends, as far as a container makes them smaller."""
    container = 2 if bits == 2 else 4 if bits <= 4 else 8
    return _contained(choices, dict.fromkeys(wide.plan.weights, container) | _ends(wide))


def _contained(choices: Choices, bits: dict[str, int]) -> dict[str, int]:
    """The widths in which these bits lie in a file."""
    return {
        layer.name: next(w.bits for w in layer.widths if w.bits >= bits[layer.name])
        for layer in choices.tradeoffs.layers
    }


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table per network."""
    yield "# Mixed bits at the bytes of uniform ones"
    yield "\nMade by `python -m benchmarks.mixed_bits DATA`. Top-1 in percent, the divergence from the float network's predictions in thousandths of a"
    yield "nat, and the bytes of the file. The output's error is predicted, as a share of the output, before anything is tuned."
    for network in dict.fromkeys(r["network"] for r in rows):
        mine = [r for r in rows if r["network"] == network]
        one = mine[0]
        yield f"\n## {network}, {one['images']} images ({one['source']}), {one['iterations']} iterations per block, {one['tested']:,} test images, seeds {sorted({r['seed'] for r in mine})}"
        yield f"\nFloat: {one['top1_float']:.2f} %. Measuring all widths took {one['cpu_seconds_choices']:.0f} seconds of one core.\n"
        yield "| bits | uniform | its file | mixed | its file | error, uniform | mixed |\n|" + " --- |" * 7
        for bits in sorted({r["bits"] for r in mine}, reverse=True):
            pair = [[r for r in mine if (r["bits"], r["case"]) == (bits, case)] for case in ("uniform", "mixed")]
            if not all(pair):
                continue
            cells = [
                f"{_mean(p, 'top1'):.2f}<br>{1e3 * _mean(p, 'kl'):.0f} | {_mean(p, 'size') / 1e3:.1f} kB" for p in pair
            ]
            errors = [f"{_mean(p, 'predicted'):.2g}" for p in pair]
            yield f"| {bits} | {' | '.join(cells)} | {' | '.join(errors)} |"
    yield footer(rows)


def _mean(rows: Rows, key: str) -> float:
    return float(statistics.mean(row[key] for row in rows))


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20,mobilenetv2_x0_5")
    parser.add_argument("--cases", default="4,3,2")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--source", default="mixmix")
    options = parser.parse_args()
    cases = [int(bits) for bits in options.cases.split(",")]
    for network in options.networks.split(","):
        for seed in map(int, options.seeds.split(",")):
            for row in measure(network, cases, seed, options.data, options.iterations, options.source):
                add_rows("mixed_bits", [row], KEYS, page)
                print(
                    json.dumps(
                        {
                            k: row[k]
                            for k in (
                                "network",
                                "case",
                                "bits",
                                "top1",
                                "kl",
                                "size",
                                "predicted",
                                "measured",
                                "widths",
                            )
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
