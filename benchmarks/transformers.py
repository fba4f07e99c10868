"""How close W8A8 transformers are to float, and how fast, beside onnxruntime's own static and dynamic quantization.

    python -m benchmarks.transformers [--networks vit_b_16,...] [--runs 15]

Weights are random, with a seed; so are the biases and gains that networks begin with as zeros and ones. But "digits" is trained
(`models/digits_transformer.py`). Eight images calibrate, four others are compared, of the digits 597. Columns:

    dB to float         SQNR of the outputs against those of the float network
    dB to simulation    SQNR of the file's outputs against the simulation's
    codes that differ   of the tensors that are codes, each computed from the same codes before it, by how much at most,
                        and the SQNR of outputs that are computed from the same last codes (inf: bit for bit)
    %                   of the digits that are named right
    ms                  medians in turns in one process, one thread, batch 1
    in float            products of matrices and convolutions that onnxruntime runs in float: two in each attention

    quantize_static     QDQ after its own preparation, uint8 activations, int8 weights per channel, the same eight images
    quantize_dynamic    int8 weights per channel; ranges of activations are found anew for each image

Rows are added to results/transformers.json as they are finished. results/transformers.md is made from it.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage import untrained
from benchmarks.models.digits_transformer import SIZE, TEST, digits, trained
from benchmarks.networks import with_biases
from benchmarks.rows import add_rows, footer
from ptq.calibration import calibrate
from ptq.export import export_float, export_qdq, ort
from ptq.export.ort_static import quantize_static
from ptq.export.stepwise import compare_stepwise
from ptq.graph.preparation import prepare
from ptq.models.model import Model, as_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment
from ptq.utils.metrics import sqnr_db

DIGITS = "digits"
NETWORKS = (DIGITS, "timm:deit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224", "vit_b_16", "convnext_tiny")
PEERS = ("quantize_static", "quantize_dynamic")
CALIBRATED, COMPARED = 8, 4


def quantize_dynamic(source: Path, target: Path) -> Path:
    """Quantize a float ONNX file as onnxruntime's documentation says for transformers."""
    from onnxruntime import quantization

    quantization.quantize_dynamic(source, target, per_channel=True, weight_type=quantization.QuantType.QInt8)
    return target


def network_and_images(network: str) -> tuple[Model, Tensor, Tensor | None]:
    """Return a network, images within [0, 1] that calibrate before those that are compared, and the labels of these."""
    if network == DIGITS:
        images, labels = digits()
        model = as_model(trained(0.5, 0.5), size=SIZE, mean=0.5, std=0.5, name=DIGITS)
        return model, torch.cat([images[:CALIBRATED], images[-TEST:]]), labels[-TEST:]
    model = untrained(network)
    with_biases(model.module)
    shape = (CALIBRATED + COMPARED, 3, *model.preprocess.size)
    return model, torch.rand(shape, generator=torch.Generator().manual_seed(1)), None


def measure(network: str, runs: int) -> dict[str, Any]:
    """Return the row of a network."""
    model, pixels, labels = network_and_images(network)
    known, others = model.preprocess.normalize(pixels).split([CALIBRATED, len(pixels) - CALIBRATED])
    graph_model = prepare(model.module, model.preprocess.input_shape, task=model.task)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8))
    calibrate(quantized_model, known, preprocess=model.preprocess, batch=4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"float": export_float(graph_model.module, folder / "float.onnx", known[:2])}
        files["ptq"] = export_qdq(quantized_model, folder / "ptq.onnx")
        files["quantize_static"] = quantize_static(files["float"], folder / "static.onnx", known.numpy())
        files["quantize_dynamic"] = quantize_dynamic(files["float"], folder / "dynamic.onnx")
        opened = {kind: ort.session(path) for kind, path in files.items()}
        given = {kind: torch.from_numpy(ort.run(session, others.numpy())) for kind, session in opened.items()}
        stepwise = compare_stepwise(files["ptq"], quantized_model, others)
        run = {kind: partial(ort.run, session) for kind, session in opened.items()}
        ms = ort.latencies(run, known[:1].numpy(), runs)
        in_float = {kind: len(ort.float_layers(ort.optimized(files[kind]))) for kind in ("ptq", *PEERS)}
    simulated = quantized_model.integer_forward(others)
    right = {kind: (y.argmax(1) == labels).float().mean() for kind, y in given.items()} if labels is not None else {}
    assert isinstance(simulated, Tensor)
    return {
        "network": network,
        "layers": len(quantized_model.plan.weights),
        "db": {kind: round(sqnr_db(given["float"], given[kind]), 1) for kind in ("ptq", *PEERS)},
        "right": {kind: round(100 * float(share), 1) for kind, share in right.items()},
        "simulation_db": round(min(200.0, sqnr_db(simulated, given["ptq"])), 1),
        "codes": sum(tensor.count for tensor in stepwise.tensors),
        "differing": sum(tensor.differing for tensor in stepwise.tensors),
        "farthest": max(tensor.farthest for tensor in stepwise.tensors),
        "output_db": round(min(200.0, stepwise.output_db), 1),
        "ms": {kind: round(value, 2) for kind, value in ms.items()},
        "float_layers": in_float,
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Transformers\n"
    yield "Made by `python -m benchmarks.transformers`, which says what the columns are. Weights and activations have 8 bits."
    yield "\n## Decibels to float\n"
    yield f"| network | layers | in float | ptq | {' | '.join(PEERS)} |\n|{' --- |' * 6}"
    for row in rows:
        cells = [row["network"], row["layers"], row["float_layers"]["ptq"], *row["db"].values()]
        yield f"| {' | '.join(map(str, cells))} |"
    for row in (row for row in rows if row.get("right")):
        yield f"\nOf the digits {', '.join(f'{kind} names {share} % right' for kind, share in row['right'].items())}."
    yield "\n## onnxruntime and the simulation\n"
    yield (
        "| network | dB to simulation | codes | that differ | by at most | dB from the same last codes |\n|"
        + " --- |" * 6
    )
    for row in rows:
        last = "inf" if row["output_db"] == 200 else row["output_db"]
        cells = [row["network"], row["simulation_db"], f"{row['codes']:,}", row["differing"], row["farthest"], last]
        yield f"| {' | '.join(map(str, cells))} |"
    yield "\n## Milliseconds\n"
    yield f"| network | float | ptq | {' | '.join(PEERS)} |\n|{' --- |' * 5}"
    for row in rows:
        ms = row["ms"]
        cells = [f"{ms[kind]:.1f} ({ms['float'] / ms[kind]:.2f}×)" for kind in ("ptq", *PEERS)]
        yield f"| {row['network']} | {ms['float']:.1f} | {' | '.join(cells)} |"
    yield footer(rows)


def main() -> None:
    """Measure the networks that the command line names and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    for network in options.networks.split(","):
        row = measure(network, options.runs)
        add_rows("transformers", [row], ("network",), page)
        print(json.dumps({k: v for k, v in row.items() if k not in ("versions", "machine")}), flush=True)


if __name__ == "__main__":
    main()
