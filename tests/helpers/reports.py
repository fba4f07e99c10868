"""A made-up report of a run, for tests of what is made from reports."""

from typing import Any

from ptq.utils.environment import environment

__all__ = ["gate", "histogram", "made_up"]


def gate(name: str, failure: str = "") -> dict[str, Any]:
    """A gate as report.json has it."""
    return {"name": name, "measured": f"{name} 1 of 2", "failure": failure, "passed": not failure}


def histogram(**changes: Any) -> dict[str, Any]:
    """Numbers of which some lie beyond a grid of 4 bits."""
    counts = [1, 0, 5, 50, 100, 60, 4, 1]
    return {
        "low": -10.0,
        "high": 10.0,
        "counts": counts,
        "step": 1.0,
        "grid_low": -8.0,
        "grid_high": 7.0,
        "clipped": 0.01,
        **changes,
    }


def made_up() -> dict[str, Any]:
    """Everything that every report has, and nothing that came later."""
    return {
        "model": {"name": "tinynet", "sha256": "0" * 64},
        "settings": {"bits": 4, "act_bits": 8},
        "top1": {"float": 88.25, "simulated": 87.5, "onnx": 87.75},
        "agreement": {"simulated": 98.0, "onnx": 97.5},
        "latency_ms": {"threads": 2, "float": 12.345, "onnx": 4.5},
        "size_bytes": {"float": 4_000_000, "onnx": 600_000},
        "images": {"count": 64, "source": "mixmix", "teachers": [{"name": "tinynet"}]},
        "notes": ["first layer stem: 8 bits", "second note"],
        "bits": {"stem": 8, "conv1": 4, "conv2": 4},
        "blocks": [
            {
                "name": "stem",
                "layers": ["stem"],
                "sqnr_nearest": 41.26,
                "sqnr": 41.26,
                "kept": "skipped",
                "seconds": 0.1,
            },
            {
                "name": "conv2",
                "layers": ["conv1", "conv2"],
                "sqnr_nearest": 12.34,
                "sqnr": 18.9,
                "kept": "learned",
                "seconds": 3.21,
            },
        ],
        "seconds": {"prepare": 0.5, "reconstruct": 12.0},
        "peak_rss_bytes": 3 * 2**30,
        "peak_activations_bytes": {"memory": 5 << 20, "disk": 3 << 19},
        "command": "ptq quantize --model tinynet --bits 4",
        "seed": 7,
        **environment(),
    }
