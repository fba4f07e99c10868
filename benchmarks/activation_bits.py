"""What `--act-bits auto` keeps: activations of 8 bits, of 4 where that harms little, and of 4 wherever a layer reads.

    python -m benchmarks.activation_bits DATA [--networks resnet20,...] [--bits 4] [--limits 0.01,0.05] [--seeds 0] [--iterations 200] [--source mixmix]

DATA is described in benchmarks/networks.py, images in benchmarks/sources.py. Weights have uniform bits but for the ends, which have 8. *limits* are what the activations of
4 bits may err the output together, `quantization.act_harm`. Everything goes through the same reconstruction.

Rows are added to results/activation_bits.json as they are finished. results/activation_bits.md is made from it. Accuracy is that of the simulation on real numbers, on images that
nothing was tuned with.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.datafree import logits_of, scores
from benchmarks.rows import Rows, add_rows, footer, with_spread
from benchmarks.sources import make_images
from ptq.calibration import calibrate
from ptq.config.flat_options import make_settings
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.run.activation_bits import plan_activations
from ptq.run.planning import plan_by_settings
from ptq.utils.environment import environment

KEYS = ("network", "bits", "activations", "seed", "iterations")
TESTED = 2500  # images at most


def measure(
    network: str, bits: int, limits: Sequence[float], seed: int, data: Path, iterations: int, source: str
) -> Iterator[dict[str, Any]]:
    """Quantize one network with activations of 8 bits, of as many as each limit allows, and of 4; a row after the other."""
    model = networks.load(network, data)
    images = make_images(source, network, model, data, seed)
    inputs = model.preprocess.normalize(images.floats())
    test, labels = networks.images(network, data, model).spaced(TESTED)
    reference = logits_of(model.module, model, test)
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    config = replace(method_preset("qdrop", "default", model.preprocess.size), iterations=iterations, seed=seed)
    ranges = partial(calibrate, inputs=inputs, preprocess=model.preprocess, seed=seed)
    whole = plan_by_settings(graph_model, make_settings(network, bits, act_bits=4).quantization)
    readable = sum(spec.bits == 4 for spec in whole.activations.values())
    for act_bits, limit in ((8, None), *(("auto", limit) for limit in limits), (4, None)):
        started = time.process_time()
        harm = {} if limit is None else {"quantization.act_harm": limit}
        settings = make_settings(network, bits, act_bits=act_bits, settings=harm).quantization
        plan = plan_by_settings(graph_model, settings)
        if limit is not None:
            plan = plan_activations(graph_model, plan, settings, inputs, ranges)
        chosen = time.process_time()
        quantized_model = insert_quantizers(graph_model, plan)
        ranges(quantized_model)
        reconstruct(quantized_model, inputs, config)
        logits = logits_of(quantized_model.fake_quantized_forward, model, test)
        yield {
            "network": network,
            "bits": bits,
            "activations": str(act_bits) if limit is None else f"auto {limit:g}",
            "seed": seed,
            "iterations": iterations,
            "images": len(images),
            "source": source,
            "tested": len(labels),
            **scores(reference, logits, labels),
            "of_4_bits": sum(spec.bits == 4 for spec in plan.activations.values()),
            "readable": readable,
            "cpu_seconds_choice": round(chosen - started, 1),
            "cpu_seconds": round(time.process_time() - chosen, 1),
            **environment(),
        }


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table per network."""
    yield "# Activations of 4 bits where they harm little\n"
    yield "Made by `python -m benchmarks.activation_bits DATA`.\n"
    yield "- Top-1 in percent, the mean over seeds and the lowest to the highest. The divergence from the float network's predictions in thousandths of a nat."
    yield "- *auto* may err the output by so much before tuning."
    settings = ("network", "bits", "iterations")
    for network, bits, iterations in dict.fromkeys(tuple(r[k] for k in settings) for r in rows):
        of = [r for r in rows if tuple(r[k] for k in settings) == (network, bits, iterations)]
        one = of[0]
        yield f"\n## {network}, weights of {bits} bits\n"
        yield (
            f"{one['images']} images ({one['source']}), {iterations} iterations per block, {one['tested']:,} test images. "
            f"Float: {one['top1_float']:.2f} %.\n"
        )
        yield "| activations | seeds | of 4 bits | top-1 | divergence | seconds of choosing |\n|" + " --- |" * 6
        for name in sorted({r["activations"] for r in of}, key=lambda name: (name != "8", name == "4", name)):
            mine = [r for r in of if r["activations"] == name]
            counts = sorted({r["of_4_bits"] for r in mine})
            yield (
                f"| {name} | {', '.join(str(r['seed']) for r in mine)} | {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} of {one['readable']} "
                f"| {with_spread([r['top1'] for r in mine])} | {1e3 * statistics.mean(r['kl'] for r in mine):.1f} "
                f"| {statistics.mean(r['cpu_seconds_choice'] for r in mine):.0f} |"
            )
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20,mobilenetv2_x0_5")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--limits", default="0.01,0.05")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--source", default="mixmix")
    options = parser.parse_args()
    limits = [float(limit) for limit in options.limits.split(",")]
    for network in options.networks.split(","):
        for seed in map(int, options.seeds.split(",")):
            for row in measure(network, options.bits, limits, seed, options.data, options.iterations, options.source):
                add_rows("activation_bits", [row], KEYS, page)
                print(
                    json.dumps({key: value for key, value in row.items() if key not in ("versions", "machine")}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
