"""Accuracy, agreement, latency and size of whole data-free runs, over several seeds.

    python -m benchmarks.accuracy DATA [--cases cifar-w4a4,lite0-w8a8] [--seeds 0,1,2]

DATA is a folder with what the cases need: imagenet-dev/ (an ImageFolder), resnet20.pth, cifar10-test-dev.npz.
It serves the evaluation only; every run calibrates on images it synthesized. Each finished run is added to
results/accuracy.json at once, and results/accuracy.md is made from that file.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ptq.files import atomic
from ptq.pipeline import run
from ptq.settings import Settings

RESULTS = Path(__file__).parent / "results"
RESNET20 = f"{Path(__file__).parent / 'models' / 'cifar_resnet.py'}:resnet20"
CIFAR = {"model": RESNET20, "weights": "resnet20.pth", "data": "cifar10-test-dev.npz"}
LITE0 = {"model": "efficientnet_lite0", "data": "imagenet-dev"}
CASES: dict[str, dict[str, Any]] = {
    "cifar-w4a4": {**CIFAR, "bits": 4, "act_bits": 4},
    "lite0-w8a8": {**LITE0, "bits": 8},
    "lite0-w8a8-reduced": {**LITE0, "bits": 8, "reduce_range": True},
    "lite0-w4a8": {**LITE0, "bits": 4, "reduce_range": True},
}
TITLES = {
    "cifar-w4a4": "CIFAR ResNet-20, W4A4",
    "lite0-w8a8": "EfficientNet-Lite0, W8A8",
    "lite0-w8a8-reduced": "EfficientNet-Lite0, W7A8 (`--bits 8 --reduce-range`)",
    "lite0-w4a8": "EfficientNet-Lite0, W4A8 (`--bits 4 --reduce-range`)",
}
KEEP = ("top1", "agreement", "disagreement", "latency_ms", "size_bytes", "seconds", "peak_rss_bytes", "precise",
        "notes", "versions", "machine")  # fmt: skip


def measure(case: str, seed: int, data: Path, preset: str) -> dict[str, Any]:
    """Make one run and return what of its report belongs into the table."""
    given = dict(CASES[case])
    for key in ("weights", "data"):
        if key in given:
            given[key] = str(data / given[key])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = run(Settings(**given, seed=seed, preset=preset, out=folder)).report
    seconds = round(time.perf_counter() - started, 1)
    row = {"case": case, "seed": seed, "preset": preset, "total_seconds": seconds}
    return row | {key: report[key] for key in KEEP}


def load() -> list[dict[str, Any]]:
    """Return the rows measured so far."""
    path = RESULTS / "accuracy.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table, seeds of a case together."""
    head = ("network", "preset, seeds", "top-1 float", "top-1 onnx", "spread", "simulation differs on", "latency float → onnx",
            "size", "time")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for case in CASES:
        for preset in ("fast", "default", "best"):
            mine = [r for r in rows if r["case"] == case and r["preset"] == preset]
            if not mine:
                continue
            onnx = [r["top1"]["onnx"] for r in mine]
            middle = sorted(mine, key=lambda r: r["top1"]["onnx"])[len(mine) // 2]
            latency, size = middle["latency_ms"], middle["size_bytes"]
            cells = (
                TITLES[case],
                f"{preset}, {len(mine)}",
                f"{middle['top1']['float']:.2f} %",
                f"{statistics.mean(onnx):.2f} %",
                f"{min(onnx):.2f}–{max(onnx):.2f}",
                f"{max(r['disagreement'] for r in mine):.2f} %",
                f"{latency['float']:.2f} → {latency['onnx']:.2f} ms",
                f"{size['float'] / 1e6:.2f} → {size['onnx'] / 1e6:.2f} MB",
                f"{statistics.mean(r['total_seconds'] for r in mine) / 60:.1f} min",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--preset", default="default")
    options = parser.parse_args()
    for case in options.cases.split(","):
        for seed in map(int, options.seeds.split(",")):
            row = measure(case, seed, options.data, options.preset)
            same = (case, seed, options.preset)
            rows = [r for r in load() if (r["case"], r["seed"], r["preset"]) != same] + [row]
            with atomic(RESULTS / "accuracy.json") as path:
                path.write_text(json.dumps(rows, indent=1) + "\n")
            machine, versions = row["machine"]["cpu"], row["versions"]
            with atomic(RESULTS / "accuracy.md") as path:
                path.write_text(
                    "# Accuracy without data\n\nMade by `python -m benchmarks.accuracy DATA`. "
                    "First and last layer 8 bits (7 with `--reduce-range`); tensors that no layer "
                    f"reads 8 bits.\n\n{table(rows)}\n\n{machine}; "
                    + ", ".join(f"{k} {v}" for k, v in versions.items())
                    + "\n"
                )
            print(
                json.dumps({k: row[k] for k in (*KEEP[:5], "case", "seed", "total_seconds")}),
                flush=True,
            )


if __name__ == "__main__":
    main()
