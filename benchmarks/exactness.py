"""Bit for bit: onnxruntime against exact integer arithmetic and against the simulation.

    python -m benchmarks.exactness DATA [--networks resnet20,...] [--bits w8a8,...] [--images 64]

DATA is described in benchmarks/networks.py. EfficientNet-Lite0 and the CIFAR networks have their trained weights and see real images. Others
have seeded random weights, BatchNorms that have seen eight images, and random images. Nothing is reconstructed: roundings do not matter
here.

Counted are the images with any output that differs between onnxruntime and

    exact integers   the file, interpreted in exact integer arithmetic (`ptq.export.integer_reference`)
    simulation       the quantized model (`ptq.quantization.integer_simulation`)

Rows are added to results/exactness.json as they are finished. results/exactness.md is made from it.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.rows import add_rows, footer
from ptq.calibration import calibrate
from ptq.export import export_qdq, ort
from ptq.export.integer_reference import IntegerReference
from ptq.graph.preparation import prepare
from ptq.models.model import load_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment

NETWORKS = ("resnet20", "efficientnet_lite0", "resnet18", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4")
CALIBRATE_WITH = 16
BATCH = 8


def measure(network: str, cases: list[str], count: int, data: Path) -> list[dict[str, Any]]:
    """Rows of one network, one for every pair of bit widths."""
    torch.manual_seed(0)
    trained = network in (*networks.CIFAR, *networks.LITES)
    model = networks.load(network, data) if trained else load_model(network, pretrained=False)
    if trained:
        pixels = networks.images(network, data, model).test[: CALIBRATE_WITH + count].float() / 255
    else:
        generator = torch.Generator().manual_seed(1)
        size = (CALIBRATE_WITH + count, 3, *model.preprocess.size)
        pixels = torch.rand(size, generator=generator)
    inputs = model.preprocess.normalize(pixels)
    if not trained:
        networks.with_statistics(model.module, inputs[:8])
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    rows = []
    for case in cases:
        bits, act_bits = (int(part) for part in case[1:].split("a"))
        quantized_model = insert_quantizers(graph_model, make_plan(graph_model, bits, act_bits))
        calibrate(quantized_model, inputs[:CALIBRATE_WITH], preprocess=model.preprocess)
        with tempfile.TemporaryDirectory() as folder:
            path = export_qdq(quantized_model, Path(folder) / "model.onnx")
            opened, integer_reference = ort.session(path), IntegerReference(path)
            parts = inputs[CALIBRATE_WITH:].split(BATCH)
            ours = torch.cat([torch.from_numpy(ort.run(opened, x.numpy())) for x in parts])
            exact = torch.cat([torch.from_numpy(integer_reference(x.numpy())) for x in parts])
            graph = ort.optimized(path)
            left = len(ort.float_operators(graph)) + len(ort.float_layers(graph))
        simulated = torch.cat([quantized_model.integer_forward(x) for x in parts])
        rows.append(
            {
                "network": network,
                "case": case,
                "images": len(ours),
                "trained": trained,
                "differing_exact": _differing(exact, ours),
                "differing_simulation": _differing(simulated, ours),
                "classes": len(ours.argmax(1).unique()),
                "float_operators": left,
                **environment(),
            }
        )
    return rows


def _differing(a: Tensor, b: Tensor) -> int:
    return int((a != b).any(1).sum())


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Bit for bit\n"
    yield "Made by `python -m benchmarks.exactness DATA`. Counted are the images on which any output of onnxruntime differs from"
    yield "exact integer arithmetic, and from the simulation. *classes* is how many different classes onnxruntime predicts: it shows"
    yield "that the outputs are not all the same.\n"
    head = ("network", "weights", "bits", "images", "exact integers", "simulation", "classes", "operators in float")
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for row in rows:
        cells = (
            row["network"],
            "trained" if row["trained"] else "random",
            row["case"],
            row["images"],
            row["differing_exact"],
            row["differing_simulation"],
            row["classes"],
            row["float_operators"],
        )
        yield f"| {' | '.join(str(cell) for cell in cells)} |"
    yield footer(rows)


def main() -> None:
    """Compare what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--bits", default=",".join(BITS))
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    for network in options.networks.split(","):
        rows = measure(network, options.bits.split(","), options.images, options.data)
        add_rows("exactness", rows, ("network", "case"), page)
        for row in rows:
            shown = ("network", "case", "images", "differing_exact", "differing_simulation")
            print(json.dumps({key: row[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
