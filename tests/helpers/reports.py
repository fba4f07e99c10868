"""A made-up report of a run, for tests of what is made from reports: nothing in it depends on the machine."""

from typing import Any

from ptq.analysis.distributions import Histogram
from ptq.config.flat_options import make_settings
from ptq.reporting.report import Report

__all__ = ["check", "histogram", "made_up", "pruned"]


def check(name: str, failure: str = "") -> dict[str, Any]:
    """A check as report.json has it."""
    return {"name": name, "measured": f"{name} 1 of 2", "failure": failure, "passed": not failure}


def histogram(**changes: Any) -> Histogram:
    """Numbers of which some lie beyond a grid of 4 bits."""
    data = {"low": -10.0, "high": 10.0, "step": 1.0, "grid_low": -8.0, "grid_high": 7.0, "clipped": 0.01}
    return Histogram(**{"counts": (1, 0, 5, 50, 100, 60, 4, 1), **data, **changes})


def made_up(**changes: Any) -> Report:
    """Return a report with everything in it.

    Args:
        changes: what differs in report.json; `top1__onnx` is the key "onnx" of "top1".
    """
    data = _data()
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = data
        for key in outer:
            place = place[key]
        place[last] = value
    return Report.from_json(data)


def pruned(**changes: Any) -> Report:
    """Return the same report of a run that removed channels first."""
    step = {"kept": True, "seconds": 2.5}
    pruning = {
        "layers": [
            {"name": "stem", "inputs": [3, 3], "outputs": [16, 16]},
            {"name": "conv1", "inputs": [16, 16], "outputs": [64, 24]},
            {"name": "conv2", "inputs": [64, 24], "outputs": [64, 48]},
            {"name": "fc", "inputs": [64, 48], "outputs": [10, 10]},
        ],
        "macs": [41_500_000, 20_700_000],
        "parameters": [270_000, 131_000],
        "steps": [
            {**step, "name": "removal", "loss": 0.912, "agreement": 61.25, "decibels": 3.21, "seconds": 0.0},
            {**step, "name": "closed form", "loss": 0.081, "agreement": 91.5, "decibels": 14.5},
            {**step, "name": "blocks", "loss": 0.0456, "agreement": 93.75, "decibels": 17.25},
            {**step, "name": "outputs", "loss": 0.0456, "agreement": 93.75, "decibels": 17.25, "kept": False},
        ],
        "images": [56, 8],
        "fixed": {"fc": "the network returns it"},
        "removed": [17, 18, 40],
        "search": {
            "limit": 3.0,
            "of": "int8",
            "threads": 2,
            "factor": 2.0,
            "tried": [[1.0, 4.5], [2.0, 2.9], [6.1, 1.25]],
        },
    }
    settings = make_settings("tinynet", 4, data="val", out="runs/tinynet-w4a8", seed=7, prune_to="3ms").to_json()
    return made_up(
        pruning=pruning,
        settings=settings,
        **{"top1__pruned": 86.5, "agreement__pruned": 96.0, "latency_ms__pruned": 6.5, "size_bytes__pruned": 2_100_000},
        **changes,
    )


def _data() -> dict[str, Any]:
    numbers = {
        "low": -10.0,
        "high": 10.0,
        "counts": [1, 0, 5, 50, 100, 60, 4, 1],
        "step": 1.0,
        "grid_low": -8.0,
        "grid_high": 7.0,
        "clipped": 0.01,
    }
    layer = {"name": "conv2", "sqnr": 12.5, "bits": 4, "input_bits": 8, "weight": numbers, "input": numbers}
    block = {"kept": "skipped", "memory": 1 << 20, "disk": 0, "losses": []}
    return {
        "version": 1,
        "model": {
            "name": "tinynet",
            "weights": "tinynet.pth",
            "sha256": "0" * 64,
            "preprocess": {
                "size": [32, 48],
                "resize": 40,
                "interpolation": "bilinear",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.3, 0.4],
            },
        },
        "validated_on": 500,
        "top1": {"float": 88.25, "simulated": 87.5, "onnx": 87.75, "onnx_unoptimized": 87.75},
        "agreement": {"simulated": 98.0, "onnx": 97.5, "onnx_unoptimized": 97.5},
        "disagreement": 0.5,
        "exact": {"images": 64, "differing": 0, "largest": 0.0},
        "latency_ms": {"float": 12.345, "onnx": 4.5, "quantize_static": 4.75, "threads": 2},
        "size_bytes": {"float": 4_000_000, "onnx": 600_000, "quantize_static": 1_050_000},
        "format": "packed",
        "precise": False,
        "float_layers": [],
        "float_operators": ["gelu"],
        "unmeasured": ["one thing could not be measured."],
        "gates": [check("first check"), check("second check"), check("third check")],
        "failed": [],
        "seconds": {"load": 0.5, "reconstruct": 12.0, "validate": 61.25},
        "peak_rss_bytes": 3 << 30,
        "peak_activations_bytes": {"memory": 5 << 20, "disk": 3 << 19},
        "blocks": [
            {**block, "name": "stem", "layers": ["stem"], "sqnr_nearest": 41.26, "sqnr": 41.26, "seconds": 0.1},
            {
                **block,
                "name": "conv2",
                "layers": ["conv1", "conv2"],
                "sqnr_nearest": 12.34,
                "sqnr": 18.9,
                "kept": "learned",
                "seconds": 3.21,
                "losses": [[1.0, 0.5, 0.25], [1.1, 0.9]],
            },
        ],
        "bits": {"stem": 8, "conv1": 4, "conv2": 4},
        "activation_bits": {"x": 8, "stem": 8},
        "notes": ["first layer stem: 8 bits", "second note"],
        "worst_layers": [layer, {**layer, "name": "stem", "input": None, "input_bits": None}],
        "images": {
            "count": 64,
            "names": {"3": "tabby"},
            "source": "mixmix",
            "teachers": [{"name": "tinynet", "sha256": "0" * 64}, {"name": "other", "sha256": "1" * 64}],
            "seed": 7,
            "quality": {
                "statistics": {"tinynet": 0.0512, "other": 0.2},
                "label_accuracy": 0.874,
                "diversity": 12.34,
                "verifier": "judge",
            },
        },
        "settings": make_settings("tinynet", 4, data="val", out="runs/tinynet-w4a8", seed=7).to_json(),
        "command": "ptq quantize --model tinynet --bits 4 --data val --out runs/tinynet-w4a8 --seed 7",
        "seed": 7,
        "versions": {"python": "3.11.7", "ptq": "0.1.0", "torch": "2.14.1", "onnxruntime": "1.32.0"},
        "machine": {"cpu": "A CPU (avx2)", "system": "Linux"},
    }
