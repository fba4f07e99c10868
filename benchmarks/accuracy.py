"""Accuracy of whole data-free runs in onnxruntime, and whether the simulation predicted the same.

    python -m benchmarks.accuracy DATA [--cases cifar-w4a4,lite0-w8a8] [--seeds 0,1,2] [--preset default]

DATA is described in benchmarks/networks.py. Its images serve the evaluation only: every run calibrates on images that it synthesized.

Each finished run is added to results/accuracy.json at once. results/accuracy.md is made from that file. How fast files are is measured by
benchmarks/latency.py, on an idle machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from benchmarks import networks
from benchmarks.rows import Rows, add_rows, footer, with_spread
from ptq.config.choices import Preset
from ptq.config.flat_options import make_settings
from ptq.errors import ValidationError
from ptq.reporting.report_files import read_report
from ptq.run.pipeline import run

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cifar-w4a4": ("CIFAR ResNet-20, W4A4", "resnet20", {"bits": 4, "act_bits": 4}),
    "lite0-w8a8": ("EfficientNet-Lite0, W8A8", "efficientnet_lite0", {"bits": 8}),
    "lite0-w7a8": (
        "EfficientNet-Lite0, W7A8 (`--bits 8 --reduce-range`)",
        "efficientnet_lite0",
        {"bits": 8, "reduce_range": True},
    ),
    "lite0-w4a8": ("EfficientNet-Lite0, W4A8", "efficientnet_lite0", {"bits": 4}),
    "lite0-w4a4": ("EfficientNet-Lite0, W4A4", "efficientnet_lite0", {"bits": 4, "act_bits": 4}),
    "mobilenetv2-w8a8": ("MobileNetV2, W8A8", "mobilenet_v2", {"bits": 8}),
    "mobilenetv2-w4a8": ("MobileNetV2, W4A8", "mobilenet_v2", {"bits": 4}),
    "mobilenetv2-w4a4": ("MobileNetV2, W4A4", "mobilenet_v2", {"bits": 4, "act_bits": 4}),
    "mobilenetv2-w3a8": ("MobileNetV2, W3A8", "mobilenet_v2", {"bits": 3}),
}
KEEP = (
    "top1",
    "agreement",
    "disagreement",
    "size_bytes",
    "validated_on",
    "seconds",
    "peak_rss_bytes",
    "precise",
    "notes",
    "versions",
    "machine",
)


def measure(case: str, seed: int, data: Path, preset: str) -> dict[str, Any]:
    """Make one run and return what of its report belongs into the table."""
    _, network, quantization = CASES[case]
    model, weights = networks.model_and_weights(network, data)
    given = {"model": model, "weights": weights, "data": networks.test_images(network, data), **quantization}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            run(make_settings(**given, seed=seed, preset=preset, out=folder))
        except ValidationError as error:  # a network that has lost too much is a row, too
            print(error)
        report = read_report(Path(folder)).to_json()
    seconds = round(time.perf_counter() - started, 1)
    row = {"case": case, "seed": seed, "preset": preset, "total_seconds": seconds}
    return row | {key: report[key] for key in KEEP}


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page; the seeds of a case are one line of the table."""
    yield "# Accuracy without data\n"
    yield "Made by `python -m benchmarks.accuracy DATA`. Whole runs, validated in onnxruntime on images that no run has seen.\n"
    yield "- First and last layer have 8 bits (7 with `--reduce-range`). Tensors that no layer reads have 8 bits."
    yield "- *top-1 onnx* is the mean of the seeds, with the lowest and the highest."
    yield "- *simulation differs* counts images for which simulation and onnxruntime predict different classes, over all seeds.\n"
    head = (
        "network",
        "preset",
        "seeds",
        "images",
        "top-1 float",
        "top-1 onnx",
        "agrees with float",
        "simulation differs",
        "size",
    )
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for case, (title, _, _) in CASES.items():
        for preset in get_args(Preset):
            mine = [r for r in rows if r["case"] == case and r["preset"] == preset]
            if mine:
                yield f"| {title} | {preset} | {' | '.join(_cells(mine))} |"
    yield footer(rows)


def _cells(rows: Rows) -> tuple[str, ...]:
    onnx = [row["top1"]["onnx"] for row in rows]
    differing = sum(round(row["disagreement"] / 100 * row["validated_on"]) for row in rows)
    images, size = sum(row["validated_on"] for row in rows), rows[0]["size_bytes"]
    return (
        ", ".join(str(row["seed"]) for row in rows),
        str(rows[0]["validated_on"]),
        f"{rows[0]['top1']['float']:.2f} %",
        with_spread(onnx, " %"),
        f"{statistics.mean(row['agreement']['onnx'] for row in rows):.1f} %",
        f"{differing} of {images}",
        f"{size['float'] / 1e6:.2f} → {size['onnx'] / 1e6:.2f} MB",
    )


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--preset", default="default", choices=get_args(Preset))
    options = parser.parse_args()
    for case in options.cases.split(","):
        for seed in map(int, options.seeds.split(",")):
            row = measure(case, seed, options.data, options.preset)
            add_rows("accuracy", [row], ("case", "preset", "seed"), page)
            print(json.dumps({k: row[k] for k in ("case", "seed", "top1", "disagreement")}), flush=True)


if __name__ == "__main__":
    main()
