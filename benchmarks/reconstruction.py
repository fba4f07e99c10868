"""What reconstruction is worth by itself: real images, so that only the method is compared.

    python -m benchmarks.reconstruction DATA [--networks resnet20,...] [--bits w4a4,...] [--variants default,...]
                                        [--seeds 0,1,2] [--iterations 1000] [--workers 2]

DATA is described in benchmarks/networks.py. CIFAR networks see 512 of the 1,280 training images, others with every seed. The
networks of ImageNet see the 128 images that are held apart from those they are judged by. A variant is a row of VARIANTS: the default method with something
changed.

Rows are added to results/reconstruction.json as they are finished. results/reconstruction.md is made from it.

First and last layer, the input and the network's output have 8 bits. Accuracy is that of the exact integer simulation. The baseline is
BRECQ's published code with the same number of images and 2,000 + 1,000 iterations per block. It was measured on the whole test set, which
has 10,000 images; here 5,000 of them are used.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import networks
from benchmarks.datafree import logits_of, scores
from benchmarks.rows import add_rows, footer, with_spread
from ptq.calibration import calibrate, mixed_copies
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.finetuning import finetune
from ptq.reconstruction.loop import reconstruct
from ptq.run.allocation import APART_FINETUNE
from ptq.utils.environment import environment

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "nearest rounding": {"iterations": 0, "correct_bias": False},
    "nearest rounding, biases corrected": {"iterations": 0},
    "no drop": {"drop": 0.0},
    "fixed scales": {"lr_scale": 0.0},
    "weights before scales": {"joint": False},
    "layer by layer": {"unit": "layer"},
    "no ridge": {"ridge": 0.0},
    "Fisher weights": {"fisher": "on"},
    "no Fisher weights": {"fisher": "off"},
    "ranges by the tensor's error": {"observer": "mse"},
    "ranges by the output's error": {"observer": "output"},
    "fine-tuned as a whole": {"finetune": 400},
    "a mixed copy of every image": {"mixed_copies": 1},
}
KEYS = ("network", "case", "iterations", "variant", "seed")
REFERENCE = {("resnet20", "w4a4"): 87.02, ("resnet20", "w2a4"): 84.45}


def measure(
    variant: str, network: str, case: str, seed: int, data: Path, iterations: int, threads: int
) -> dict[str, Any]:
    """Quantize one network with one variant."""
    torch.set_num_threads(threads)
    model = networks.load(network, data)
    size, real = model.preprocess.size, networks.images(network, data, model)
    changes = dict(VARIANTS[variant])
    images, apart = real.real(512, seed), None
    if "finetune" in changes:
        images, apart = images.hold_apart(APART_FINETUNE)
    images = mixed_copies(images, changes.pop("mixed_copies", 0), seed)
    inputs = model.preprocess.normalize(images.floats())
    observer = changes.pop("observer", "auto")
    config = replace(method_preset("qdrop", "default", size), iterations=iterations, seed=seed)
    config = replace(config, **changes)
    bits, act_bits = (int(part) for part in case[1:].split("a"))
    graph_model = prepare(model.module, (3, *size))
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, bits, act_bits))
    calibrate(quantized_model, inputs, preprocess=model.preprocess, observer=observer, seed=seed)
    started = time.perf_counter()
    blocks = reconstruct(quantized_model, inputs, config)
    found = None
    if apart is not None:
        found = finetune(quantized_model, inputs, model.preprocess.normalize(apart.floats()), config)
    seconds = time.perf_counter() - started
    reference, logits = (
        logits_of(model.module, model, real.test),
        logits_of(quantized_model.integer_forward, model, real.test),
    )
    return {
        "network": network,
        "case": case,
        "variant": variant,
        "seed": seed,
        "images": len(images),
        "iterations": iterations,
        **scores(reference, logits, real.labels),
        "seconds": round(seconds, 1),
        "seconds_per_block": round(seconds / len(blocks), 2),
        "finetuning": found and {"before": round(found.before, 4), "after": round(found.after, 4), "kept": found.kept},
        "kept_nearest": sum(block.kept == "nearest" for block in blocks),
        "threads": threads,
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per network and number of iterations, a column per bit width."""
    yield "# What reconstruction is worth\n"
    yield "Made by `python -m benchmarks.reconstruction DATA`. A cell has top-1 in percent: the mean over seeds, and the lowest"
    yield "to the highest. Below it stand the Kullback-Leibler divergence from the float network's predictions, in thousandths"
    yield "of a nat, and the seconds per block. Seconds are those of a worker with another worker beside it."
    for network, iterations in sorted({(r["network"], r["iterations"]) for r in rows}):
        mine = [r for r in rows if (r["network"], r["iterations"]) == (network, iterations)]
        cases = sorted({r["case"] for r in mine}, reverse=True)
        yield f"\n## {network}, {mine[0]['images']} real images, {iterations} iterations per block\n"
        yield f"Float: {mine[0]['top1_float']:.2f} %.\n"
        yield f"| variant | {' | '.join(cases)} |\n|{' --- |' * (len(cases) + 1)}"
        for variant in (v for v in VARIANTS if any(r["variant"] == v for r in mine)):
            cells = [_cell([r for r in mine if (r["variant"], r["case"]) == (variant, c)]) for c in cases]
            yield f"| {variant} | {' | '.join(cells)} |"
        published = [f"{REFERENCE.get((network, case), '')}" for case in cases]
        if any(published):
            yield f"| *BRECQ's code, 2,000 + 1,000 iterations* | {' | '.join(published)} |"
    yield footer(rows)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values, kl = [r["top1"] for r in rows], statistics.mean(r["kl"] for r in rows)
    pace = statistics.mean(r["seconds_per_block"] for r in rows)
    return f"{with_spread(values)}<br>{1e3 * kl:.0f}, {pace:.1f} s"


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20")
    parser.add_argument("--bits", default="w4a4,w3a3,w2a4")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--iterations", default="1000", help="several, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    options = parser.parse_args()
    threads = max(1, torch.get_num_threads() // options.workers)  # respects taskset
    jobs = [
        (variant, network, case, int(seed), options.data, int(iterations), threads)
        for network in options.networks.split(",")
        for iterations in options.iterations.split(",")
        for seed in options.seeds.split(",")
        for variant in options.variants.split(",")
        for case in options.bits.split(",")
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(measure, *job) for job in jobs]):
            row = done.result()
            add_rows("reconstruction", [row], KEYS, page)
            shown = ("network", "case", "variant", "iterations", "seed", "top1", "kl", "seconds")
            print(json.dumps({key: row[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
