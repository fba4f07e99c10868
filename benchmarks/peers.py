"""Other tools beside ptq: the same network, the same images, the same widths.

    python -m benchmarks.peers DATA --aimet PYTHON [--bits w8a8,w4a8,w3a8,w4a4] [--source mixmix] [--seed 0] [--iterations 10000]
                                    [--tools quantize_static,aimet,...]

DATA is described in benchmarks/networks.py, and PYTHON in benchmarks/aimet_quantize.py. The network is torchvision's MobileNetV2. Images are those that
benchmarks/datafree.py makes and keeps in runs/datafree. Its row with the same images is the one to compare with.

Rows are added to results/peers.json as they are finished. results/peers.md is made from it.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.datafree import logits_of, scores
from benchmarks.rows import Rows, add_rows, footer, read_rows
from benchmarks.sources import make_images
from ptq.export import export_float, ort
from ptq.export.ort_static import quantize_static
from ptq.graph.preparation import prepare
from ptq.models.model import Model
from ptq.utils.environment import environment

KEYS = ("network", "source", "case", "seed", "tool", "iterations")
STATIC = "onnxruntime quantize_static"
AIMET = {
    "AIMET": ("--method", "plain"),
    "AIMET, CLE": ("--method", "plain", "--cle"),
    "AIMET, AdaRound": ("--method", "adaround"),
    "AIMET, CLE and AdaRound": ("--method", "adaround", "--cle"),
}


def measure(tool: str, case: str, images: Tensor, test: Tensor, model: Model, options: argparse.Namespace) -> Any:
    """Quantize with one tool; return what the result gives for `test`, and what the tool says about itself."""
    bits, act_bits = (int(part) for part in case[1:].split("a"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if tool == STATIC:
            graph_model = prepare(model.module, model.preprocess.input_shape)
            source = export_float(graph_model.module, folder / "float.onnx", graph_model.example(2))
            started = time.perf_counter()
            file = quantize_static(source, folder / "static.onnx", images.numpy())
            seconds = round(time.perf_counter() - started, 1)
            return torch.from_numpy(ort.run(ort.session(file), test.numpy())), {"seconds": seconds}
        np.savez(folder / "images.npz", images=images.numpy(), test=test.numpy())
        _, weights = networks.model_and_weights(options.network, options.data)
        command = [
            str(options.aimet),
            str(Path(__file__).with_name("aimet_quantize.py")),
            options.network,
            str(weights),
        ]
        command += [str(folder / "images.npz"), str(folder / "logits.npy"), *AIMET[tool], "--seed", str(options.seed)]
        command += ["--bits", str(bits), "--act-bits", str(act_bits), "--iterations", str(options.iterations)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return torch.from_numpy(np.load(folder / "logits.npy")), json.loads(said.splitlines()[-1])


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Other tools\n"
    yield "Made by `python -m benchmarks.peers DATA --aimet PYTHON`. A cell has top-1 in percent, and below it the Kullback-Leibler divergence from the float"
    yield "network's predictions, in thousandths of a nat, and the seconds on one thread. Rows of ptq are those of benchmarks/datafree.py with the same images."
    ours = read_rows("datafree")
    for network, source, seed in sorted({(r["network"], r["source"], r["seed"]) for r in rows}):
        mine = [r for r in rows if (r["network"], r["source"], r["seed"]) == (network, source, seed)]
        cases = sorted({r["case"] for r in mine}, reverse=True)
        yield f"\n## {network}, {mine[0]['images']} images ({source}), seed {seed}\n"
        yield f"Float: {mine[0]['top1_float']:.2f} %, on {mine[0]['test']} images.\n"
        yield f"| tool | {' | '.join(cases)} |\n|{' --- |' * (len(cases) + 1)}"
        for tool, iterations in sorted({(r["tool"], r["iterations"]) for r in mine}, key=str):
            cells = [
                _cell([r for r in mine if (r["tool"], r["iterations"], r["case"]) == (tool, iterations, c)])
                for c in cases
            ]
            yield f"| {tool}{f', {iterations:,} iterations for a layer' if iterations else ''} | {' | '.join(cells)} |"
        same = [r for r in ours if (r["network"], r["source"], r["seed"]) == (network, source, seed)]
        for iterations in sorted({r["iterations"] for r in same}):
            cells = [_cell([r for r in same if (r["iterations"], r["case"]) == (iterations, c)]) for c in cases]
            yield f"| ptq, {iterations} iterations for a block | {' | '.join(cells)} |"
    yield footer(rows)


def _cell(rows: Rows) -> str:
    if not rows:
        return ""
    (row,) = rows
    seconds = row.get("seconds", row.get("seconds_quantize"))
    return f"{row['top1']:.2f}<br>{1000 * row['kl']:.0f}{'' if seconds is None else f', {seconds:.0f} s'}"


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--aimet", type=Path)
    parser.add_argument("--network", default=networks.MOBILENET, choices=(networks.MOBILENET,))
    parser.add_argument("--source", default="mixmix")
    parser.add_argument("--bits", default="w8a8,w4a8,w3a8,w4a4")
    parser.add_argument("--tools", default=";".join((STATIC, *AIMET)), help="separated by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=10000, help="of AdaRound, for a layer")
    options = parser.parse_args()
    model = networks.load(options.network, options.data)
    images = make_images(options.source, options.network, model, options.data, options.seed)
    real = networks.images(options.network, options.data, model)
    inputs, test = model.preprocess.normalize(images.floats()), model.preprocess.normalize(real.test.float() / 255)
    reference = logits_of(model.module, model, real.test)
    for tool in options.tools.split(";"):
        for case in options.bits.split(","):
            if tool == STATIC and case != "w8a8":
                continue  # it has no narrower integers that run
            logits, about = measure(tool, case, inputs, test, model, options)
            row = {
                "network": options.network,
                "source": options.source,
                "case": case,
                "seed": options.seed,
                "tool": tool,
                "iterations": options.iterations if "AdaRound" in tool else 0,
                "images": len(inputs),
                "test": len(test),
                **scores(reference, logits, real.labels),
                **about,
                **environment(),
            }
            if "versions" in about:
                row["versions"] = {**row["versions"], **about["versions"]}
            add_rows("peers", [row], KEYS, page)
            print(json.dumps({k: row[k] for k in ("tool", "case", "top1", "kl")}), about, flush=True)


if __name__ == "__main__":
    main()
