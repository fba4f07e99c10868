"""What calibration images are worth: accuracy with the images of every source, through the same reconstruction.

    python -m benchmarks.datafree DATA [--networks resnet20,efficientnet_lite0] [--sources real,...]
                                       [--bits w4a4,w3a3,w2a4] [--seeds 0,1,2] [--iterations 200] [--workers 2]
                                       [--mct PYTHON]

DATA is described in benchmarks/networks.py. A source is a row of SOURCES in benchmarks/sources.py, or "METHOD:NETWORK+NETWORK": images
from these teachers. "others" are all networks of the family but the one that is quantized.

Rows are added to results/datafree.json as they are finished. results/datafree.md is made from it. Images stay in runs/datafree, and are
taken from there if they are there.

Synthesized sets and real ones have the same number of images, but for those that say how many they have. The first and the last layer have 8 bits, and so have the input and the
network's output. Every other weight and activation has the bits named. Accuracy is that of the exact integer simulation, on images that no
source has seen. That onnxruntime computes the same is shown by benchmarks/accuracy.py.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.rows import add_rows, footer, with_spread
from benchmarks.sources import PRESET, SOURCES, make_images, source_of, teachers_of
from ptq.calibration import assess, calibrate
from ptq.graph.preparation import prepare
from ptq.models.model import Model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.utils.environment import environment
from ptq.utils.metrics import kl_divergence, top1

KEYS = ("network", "source", "case", "seed", "iterations")


def measure(
    name: str, network: str, seed: int, cases: tuple[str, ...], data: Path, iterations: int, threads: int, mct: str = ""
) -> list[dict[str, Any]]:
    """Quantize one network with one source's images, for several bit widths."""
    torch.set_num_threads(threads)
    model = networks.load(network, data)
    images = make_images(name, network, model, data, seed, mct)
    real = networks.images(network, data, model)
    verifier = networks.load(networks.family(network)[-1], data)
    quality = assess(images, [model], verifier).to_json()
    reference = logits_of(model.module, model, real.test)
    size = model.preprocess.size
    config = replace(method_preset("qdrop", PRESET, size), iterations=iterations, seed=seed)
    rows = []
    for case in cases:
        bits, act_bits = (int(part) for part in case[1:].split("a"))
        started = time.perf_counter()
        graph_model = prepare(model.module, (3, *size))
        quantized_model = insert_quantizers(graph_model, make_plan(graph_model, bits, act_bits))
        inputs = model.preprocess.normalize(images.floats())
        calibrate(quantized_model, inputs, preprocess=model.preprocess, seed=seed)
        reconstruct(quantized_model, inputs, config)
        seconds = time.perf_counter() - started
        logits = logits_of(quantized_model.integer_forward, model, real.test)
        rows.append(
            {
                "network": network,
                "source": name,
                "case": case,
                "seed": seed,
                "images": len(images),
                "iterations": iterations,
                **scores(reference, logits, real.labels),
                "teachers": teachers_of(source_of(name), network),
                "quality": quality,
                "seconds_images": images.provenance.get("seconds"),
                "seconds_quantize": round(seconds, 1),
                "settings": images.provenance.get("settings"),
                "threads": threads,
                **environment(),
            }
        )
    return rows


@torch.no_grad()
def logits_of(network: Callable[[Tensor], Tensor], model: Model, images: Tensor) -> Tensor:
    """What a network gives on uint8 images (N, 3, H, W)."""
    parts = [network(model.preprocess.normalize(part.float() / 255)) for part in images.split(100)]
    return torch.cat(parts)


def scores(reference: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What a row says of logits beside the float network's: top-1 of both in percent, and the divergence in nats."""
    return {
        "top1": round(top1(logits, labels), 3),
        "top1_float": round(top1(reference, labels), 3),
        "kl": round(kl_divergence(reference, logits), 5),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per network."""
    yield "# What calibration images are worth"
    yield "\nMade by `python -m benchmarks.datafree DATA`.\n"
    yield "- A cell has top-1 in percent: the mean over seeds, and the lowest to the highest. Below it stands the Kullback-Leibler"
    yield "  divergence from the float network's predictions, in thousandths of a nat."
    yield "- *statistics* is the distance from the network's BatchNorm statistics. 0 is the training data."
    yield "- *label accuracy* is that of the last network of the family, which is one of the teachers where there are several."
    yield "- *diversity* is how many images without anything in common would be as diverse as these."
    for network in dict.fromkeys(r["network"] for r in rows):
        for iterations in sorted({r["iterations"] for r in rows if r["network"] == network}):
            mine = [r for r in rows if (r["network"], r["iterations"]) == (network, iterations)]
            listed = [r for r in mine if r["source"] in SOURCES]
            yield from _table(network, iterations, listed) if listed else ()
    for names in (tuple(networks.CIFAR), networks.LITES):
        yield from _transfer(names, [r for r in rows if r["network"] in names])
    yield footer(rows)


def _table(network: str, iterations: int, rows: list[dict[str, Any]]) -> Iterator[str]:
    cases = sorted({r["case"] for r in rows}, reverse=True)
    seeds = sorted({r["seed"] for r in rows})
    yield f"\n## {network}, {rows[0]['images']} images, {iterations} iterations per block, seeds {seeds}"
    yield f"\nFloat: {rows[0]['top1_float']:.2f} %.\n"
    head = (
        "source",
        *cases,
        "statistics",
        "label accuracy",
        "diversity",
        "CPU seconds for images (MCT: seconds on 2 threads)",
    )
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for name in (name for name in SOURCES if any(r["source"] == name for r in rows)):
        mine = [r for r in rows if r["source"] == name]
        cells = [_cell([r for r in mine if r["case"] == case]) for case in cases]
        quality = [r["quality"] for r in mine]
        distance = statistics.mean(next(iter(q["statistics"].values())) for q in quality)
        labels = [q["label_accuracy"] for q in quality if q["label_accuracy"] is not None]
        seconds = [r["seconds_images"] for r in mine if r["seconds_images"]]
        cells += [
            f"{distance:.3f}",
            f"{100 * statistics.mean(labels):.0f} %" if labels else "",
            f"{statistics.mean(q['diversity'] for q in quality):.1f}",
            f"{statistics.mean(seconds):.0f}" if seconds else "",
        ]
        yield f"| {source_of(name).title} | {' | '.join(cells)} |"


def _transfer(names: tuple[str, ...], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a matrix: what images from one network do for another."""
    sources = {
        "itself": "mixmix",
        **{name: f"mixmix:{name}" for name in names},
        "all the others": "mixmix-others",
        "all": "mixmix-zoo",
        "real images": "real",
    }
    crossed = {r["network"] for r in rows if r["source"] == "mixmix-others"}
    for case in sorted({r["case"] for r in rows if r["network"] in crossed}, reverse=True):
        yield f"\n## Transfer, {case}: rows are quantized with MixMix images from the columns\n"
        yield f"| target | float | {' | '.join(sources)} |\n|{' --- |' * (len(sources) + 2)}"
        for network in (name for name in names if name in crossed):
            mine = [r for r in rows if (r["network"], r["case"]) == (network, case)]
            if not mine:
                continue
            cells = [_cell([r for r in mine if r["source"] == s]) for s in sources.values()]
            yield f"| {network} | {mine[0]['top1_float']:.2f} | {' | '.join(cells)} |"


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values, kl = [r["top1"] for r in rows], statistics.mean(r["kl"] for r in rows)
    return f"{with_spread(values)}<br>{1e3 * kl:.0f}"


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20,resnet56,efficientnet_lite0")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--bits", default="w4a4,w3a3,w2a4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    parser.add_argument("--mct", default="", help="a Python with model-compression-toolkit 2.6.1")
    options = parser.parse_args()
    threads = max(1, torch.get_num_threads() // options.workers)  # respects taskset
    jobs = [
        (
            source,
            network,
            int(seed),
            tuple(options.bits.split(",")),
            options.data,
            options.iterations,
            threads,
            options.mct,
        )
        for network in options.networks.split(",")
        for seed in options.seeds.split(",")
        for source in options.sources.split(",")
        if source != "mct" or (options.mct and network in networks.CIFAR)
        if source != "universal-unseen" or network in networks.UNIVERSAL
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(measure, *job) for job in jobs]):
            rows = done.result()
            add_rows("datafree", rows, KEYS, page)
            for row in rows:
                shown = ("network", "source", "case", "seed", "top1", "kl", "seconds_images", "seconds_quantize")
                print(json.dumps({key: row[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
