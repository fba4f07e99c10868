"""How fast the exported files are in onnxruntime, beside float and beside onnxruntime's own quantization.

    python -m benchmarks.latency [--networks resnet18,...] [--threads 1,2] [--runs 30]

Weights are random, with a seed: latency does not depend on them. Nothing is reconstructed. The variants of a network are run in turns, so
that whatever else the machine does meets all of them alike. Figures are medians.

    float             the float network
    W8A8              8 bits
    W4A8 packed       weights of 4 bits in INT4
    W4A8 int8         the same weights in bytes
    W4A4 packed       activations of 4 bits, too
    W8A8 placed       8 bits, and what is slower in integers with these threads in float, as `--place auto` has it; the
                      others have all in integers that can be
    float, branches   the float network with branches that add up left apart, of networks that have some
    quantize_static   onnxruntime.quantization.quantize_static after its own preparation: QDQ, uint8 activations, int8
                      weights per channel, the same images

Rows are added to results/latency.json as they are finished. results/latency.md is made from it. Nothing else should run on the machine.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.networks import with_biases
from benchmarks.rows import add_rows, footer
from ptq.calibration import calibrate
from ptq.export import export_float, export_qdq, ort
from ptq.export.ort_static import quantize_static
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import load_model
from ptq.placement.placing import place, placed_plan
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment, this_machine

NETWORKS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_lite0",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "googlenet",
    "timm:ghostnet_050",
    "timm:repghostnet_050",
    "timm:lcnet_050",
    "timm:tinynet_e",
    "timm:mobileone_s0",
    "timm:repvgg_a0",
    "timm:repvit_m0_9",
    "timm:deit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "benchmarks/models/face_network.py:mobilefacenet",
)
OURS = {
    "W8A8": (8, 8, None),
    "W4A8 packed": (4, 8, "packed"),
    "W4A8 int8": (4, 8, "int8"),
    "W4A4 packed": (4, 4, "packed"),
}
PLACED = "W8A8 placed"
APART = "float, branches"
QUANTIZED = (*OURS, "quantize_static", PLACED)
VARIANTS = ("float", *QUANTIZED, APART)
KEYS = ("network", "threads", "cpu")
IMAGES = 2  # give ranges: times do not depend on them


def export_all(graph_model: GraphModel, folder: Path) -> dict[str, Path]:
    """Write every variant of one network."""
    x = torch.randn(IMAGES, *graph_model.input_shape, generator=torch.Generator().manual_seed(0))
    files = {"float": export_float(graph_model.module, folder / "float.onnx", x[:2])}
    for name, (bits, act_bits, format) in OURS.items():
        quantized_model = calibrate(
            insert_quantizers(graph_model, make_plan(graph_model, bits, act_bits)), x, observer="minmax"
        )
        files[name] = export_qdq(quantized_model, folder / f"{name}.onnx", format=format)
    files["quantize_static"] = quantize_static(files["float"], folder / "static.onnx", x.numpy())
    return files


def export_placed(graph_model: GraphModel, folder: Path, threads: int) -> Path:
    """Write a network at 8 bits with what is slower in integers in float."""
    plan = make_plan(graph_model, 8)
    placement = place(graph_model, plan, threads, float_path=folder / "float.onnx")
    quantized_model = insert_quantizers(graph_model, placed_plan(graph_model, plan, placement.in_float))
    calibrate(quantized_model, graph_model.example(IMAGES), observer="minmax")
    return export_qdq(quantized_model, folder / f"placed-{threads}.onnx")


def measure(network: str, threads: list[int], runs: int) -> list[dict[str, Any]]:
    """One row per number of threads."""
    torch.manual_seed(0)
    model = load_model(network, pretrained=False)
    with_biases(model.module)
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    apart = prepare(model.module, (3, *model.preprocess.size), keep_branches="all")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = export_all(graph_model, Path(folder))
        if len(apart.module.graph.nodes) != len(graph_model.module.graph.nodes):
            files[APART] = export_float(apart.module, Path(folder) / "apart.onnx", apart.example(2))
        image = np.random.default_rng(0).standard_normal((1, *graph_model.input_shape), np.float32)
        for count in threads:
            files[PLACED] = export_placed(graph_model, Path(folder), count)
            left_in_float = {name: len(ort.float_layers(ort.optimized(files[name]))) for name in QUANTIZED}
            opened = {name: partial(ort.run, ort.session(path, threads=count)) for name, path in files.items()}
            rows.append(
                {
                    "network": network,
                    "threads": count,
                    "runs": runs,
                    "ms": {k: round(v, 3) for k, v in ort.latencies(opened, image, runs).items()},
                    "bytes": {name: path.stat().st_size for name, path in files.items()},
                    "float_layers": left_in_float,
                    "cpu": this_machine().cpu,
                    **environment(),
                }
            )
    return rows


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per number of threads."""
    yield "# Latency in onnxruntime\n"
    yield "Made by `python -m benchmarks.latency`, which says what the columns are. Milliseconds at batch 1. In parentheses: how"
    yield "many times as fast as float. Layers that stayed in float would be counted there."
    for cpu, threads in sorted({(row["cpu"], row["threads"]) for row in rows}):
        yield f"\n## {threads} thread{'s' if threads > 1 else ''} of {cpu}\n"
        yield f"| network | {' | '.join(VARIANTS)} | packed over int8: size | W8A8 over quantize_static | placed over it |"
        yield f"|{' --- |' * (len(VARIANTS) + 4)}"
        for row in (row for row in rows if (row["cpu"], row["threads"]) == (cpu, threads)):
            ms, size, slow = row["ms"], row["bytes"], row["float_layers"]
            cells = [f"{ms['float']:.1f}"]
            for name in VARIANTS[1:]:
                if name not in ms:  # a network without branches, or measured before there was this variant
                    cells.append("")
                    continue
                note = f", {slow[name]} in float" if slow.get(name) else ""
                cells.append(f"{ms[name]:.1f} ({ms['float'] / ms[name]:.1f}×{note})")
            cells.append(f"{size['W4A8 packed'] / size['W4A8 int8']:.2f}")
            cells.append(f"{ms['W8A8'] / ms['quantize_static']:.2f}")
            cells.append(f"{ms[PLACED] / ms['quantize_static']:.2f}" if PLACED in ms else "")
            yield f"| {row['network']} | {' | '.join(cells)} |"
    yield "\n## Size of the files\n\nIn MB.\n"
    yield f"| network | {' | '.join(VARIANTS)} |\n|{' --- |' * (len(VARIANTS) + 1)}"
    for network, sizes in {row["network"]: row["bytes"] for row in rows}.items():
        cells = [f"{sizes[name] / 1e6:.1f}" if name in sizes else "" for name in VARIANTS]
        yield f"| {network} | {' | '.join(cells)} |"
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    for network in options.networks.split(","):
        rows = measure(network, [int(n) for n in options.threads.split(",")], options.runs)
        add_rows("latency", rows, KEYS, page)
        for row in rows:
            print(json.dumps({key: row[key] for key in ("network", "threads", "ms")}), flush=True)


if __name__ == "__main__":
    main()
