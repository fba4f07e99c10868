"""What whole runs take, and what `--dry-run` says before: minutes and memory, each in a process of its own.

    python -m benchmarks.budget DATA [--cases lite0,lite0-1gib,lite0-images,mobilenetv2,resnet50]

DATA is described in benchmarks/networks.py. Cases:

    lite0        EfficientNet-Lite0, W4A4, default preset, 256 real images at 224
    lite0-1gib   the same with --memory-limit 1GiB
    lite0-images EfficientNet-Lite0, W4A8, default preset, from synthesis to validation
    mobilenetv2  MobileNetV2, W4A4, default preset, from synthesis to validation
    resnet50     ResNet-50 with seeded random weights at 224, W4A8, fast preset, from synthesis to validation

Rows are added to results/budget.json as they are finished. results/budget.md is made from it. Nothing else should run on the machine.
Memory is the process's peak, libraries and the validation in onnxruntime included.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file

from benchmarks import networks
from benchmarks.rows import add_rows, footer
from ptq.calibration import CalibrationSet
from ptq.config.recipe_file import read_recipe
from ptq.data.datasets import load_images
from ptq.errors import InputError
from ptq.models.model import load_model
from ptq.reporting.report_files import read_report
from ptq.run.estimate import estimate_run
from ptq.utils.environment import environment
from ptq.utils.units import byte_text

IMAGES = 256
LITE0 = ("--model", "efficientnet_lite0", "--bits", "4", "--act-bits", "4", "--preset", "default")
DATAFREE = ("--model", "efficientnet_lite0", "--bits", "4", "--preset", "default")
MOBILENET = ("--bits", "4", "--act-bits", "4", "--preset", "default")
RESNET50 = ("--model", "resnet50", "--bits", "4", "--preset", "fast")
CASES = ("lite0", "lite0-1gib", "lite0-images", "mobilenetv2", "resnet50")


def options_of(case: str, data: Path, folder: Path) -> list[str]:
    """The command line of a case; what it reads is made in `folder`."""
    if case == "lite0-images":
        return [*DATAFREE]
    if case == "mobilenetv2":
        name, weights = networks.model_and_weights("mobilenet_v2", data)
        return ["--model", name, "--weights", str(weights), *MOBILENET]
    if case == "resnet50":
        torch.manual_seed(0)
        save_file(torchvision.models.resnet50(weights=None).state_dict(), folder / "w.safetensors")
        return [*RESNET50, "--weights", str(folder / "w.safetensors")]
    pixels = load_images(data / "imagenet-dev", load_model("efficientnet_lite0").preprocess, IMAGES)
    CalibrationSet.from_pixels(pixels).save(folder / "images.safetensors")
    limit = ["--memory-limit", "1GiB"] if case == "lite0-1gib" else []
    return [*LITE0, "--images", str(folder / "images.safetensors"), *limit]


def estimate_of(recipe: Path) -> dict[str, Any]:
    """What `--dry-run` says of the command with this recipe."""
    found = estimate_run(read_recipe(recipe))
    return {
        "seconds": {name: round(value, 1) for name, value in found.seconds.items()},
        "peak_rss_bytes": found.memory_bytes,
        "latency_ms": found.latency_ms["onnx"],
        "size_bytes": found.size_bytes["onnx"],
    }


def measure(case: str, data: Path) -> dict[str, Any]:
    """Estimate and run one case, and return its row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = options_of(case, data, folder)
        command = [sys.executable, "-m", "ptq", "quantize", *options, "--out", str(folder / "run")]
        recipe = folder / "recipe.toml"
        recipe.write_bytes(subprocess.run([*command, "--dump-config"], check=True, stdout=subprocess.PIPE).stdout)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            estimate = pool.submit(estimate_of, recipe).result()
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            report = read_report(folder / "run")  # which a run that fails a check has, too
        except InputError as error:
            raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}") from error
    return {
        "case": case,
        "images": report.images.count,
        "blocks": len(report.blocks),
        "seconds": {name: round(value, 1) for name, value in report.seconds.items()},
        "peak_rss_bytes": report.peak_rss_bytes,
        "peak_activations_bytes": asdict(report.peak_activations_bytes),
        "latency_ms": report.validation.latency_ms,
        "size_bytes": report.validation.size_bytes,
        "failed": list(report.validation.failed),
        "estimate": estimate,
        "threads": torch.get_num_threads(),
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# What whole runs take\n"
    yield "Made by `python -m benchmarks.budget DATA`, which says what the cases are. In parentheses, where it was asked: what"
    yield "`--dry-run` had said before.\n"
    head = (
        "case",
        "images",
        "blocks",
        "synthesis",
        "reconstruction",
        "validation",
        "minutes in all",
        "peak memory",
        "MB of the file",
        "activations kept: memory, disk",
        "checks",
    )
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for row in rows:
        kept = row["peak_activations_bytes"]
        told = _figures(row["seconds"], row["peak_rss_bytes"], row["size_bytes"]["onnx"])
        if before := row.get("estimate"):  # older rows have none
            estimated = _figures(before["seconds"], before["peak_rss_bytes"], before["size_bytes"])
            told = [f"{one} ({other})" for one, other in zip(told, estimated, strict=True)]
        cells = [
            row["case"],
            str(row["images"]),
            str(row["blocks"]),
            *told,
            f"{byte_text(kept['memory'])}, {byte_text(kept['disk'])}",
            "; ".join(row["failed"]) or "passed",
        ]
        yield f"| {' | '.join(cells)} |"
    yield footer(rows)


def _figures(seconds: dict[str, float], peak: int, size: int) -> list[str]:
    """What a run took, or was said to take, in words."""
    stages = ("synthesize", "reconstruct", "validate")
    return [
        *(f"{seconds.get(stage, 0):.0f} s" for stage in stages),
        f"{sum(seconds.values()) / 60:.1f}",
        byte_text(peak),
        f"{size / 1e6:.2f}",
    ]


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    for case in options.cases.split(","):
        row = measure(case, options.data)
        add_rows("budget", [row], ("case",), page)
        print(json.dumps({k: row[k] for k in ("case", "seconds", "peak_rss_bytes", "failed")}))


if __name__ == "__main__":
    main()
