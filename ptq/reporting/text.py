"""What is known about images, exactness and memory, in words: for reports and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ptq.utils.units import byte_text

__all__ = [
    "ALWAYS",
    "COLUMNS",
    "exactness_lines",
    "figure_columns",
    "figure_rows",
    "image_lines",
    "memory_lines",
    "threads_text",
]

ALWAYS = ("float", "simulated", "onnx")
COLUMNS = (*ALWAYS, "quantize_static", "openvino")
"""What reports and the terminal show beside each other: always, and as far as it was measured."""


def figure_columns(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a run always measures, and what else this one did, of `COLUMNS`."""
    known = {*report["top1"], *report["agreement"], *report["latency_ms"]}
    return tuple(c for c in COLUMNS if c in ALWAYS or c in known)


def figure_rows(report: Mapping[str, Any], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return accuracy, agreement, latency and size as text: a name and a cell for each column; blank where unknown."""
    latency, size = report["latency_ms"], report["size_bytes"]
    return [
        ("top-1 (%)", *(_number(report["top1"].get(c), "{:.2f}") for c in columns)),
        ("same prediction as float (%)", *(_number(report["agreement"].get(c), "{:.2f}") for c in columns)),
        (
            f"latency ({', '.join(filter(None, ('ms', threads_text(latency.get('threads')))))})",
            *(_number(latency.get(c), "{:.2f}") for c in columns),
        ),
        ("size (MB)", *(_number(size.get(c), "{:.2f}", 1e-6) for c in columns)),
    ]


def image_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines about a set of images, from its provenance and "count".

    Example:
        >>> image_lines({"count": 64, "source": "noise"})
        ['64 images: noise']
    """
    teachers = ", ".join(teacher["name"] for teacher in facts.get("teachers", ()))
    lines = [f"{facts['count']} images: {facts['source']}" + (f" from {teachers}" if teachers else "")]
    quality = facts.get("quality")
    if quality is None:
        return lines
    distances = ", ".join(f"{name} {value:.3f}" for name, value in quality["statistics"].items())
    lines.append(f"distance from the BatchNorm statistics: {distances} (0 is the training data)")
    if quality["label_accuracy"] is not None:
        share = 100 * quality["label_accuracy"]
        lines.append(f"{quality['verifier']} sees the label in {share:.0f} % of them")
    lines.append(f"they vary as much as {quality['diversity']:.1f} images that have nothing in common")
    return lines


def exactness_lines(figures: Mapping[str, float] | None) -> list[str]:
    """A line about how the file compares with exact integer arithmetic, where it was compared.

    Example:
        >>> exactness_lines({"images": 64, "differing": 0, "largest": 0.0})
        ['bit for bit what exact integer arithmetic gives, on 64 images']
    """
    if not figures:
        return []
    images, differing = f"{figures['images']:.0f}", f"{figures['differing']:.0f}"
    if figures["differing"] == 0:
        return [f"bit for bit what exact integer arithmetic gives, on {images} images"]
    return [
        f"differs from exact integer arithmetic on {differing} of {images} images, by up to "
        f"{100 * figures['largest']:.2g} % of the largest output"
    ]


def memory_lines(report: Mapping[str, Any]) -> list[str]:
    """Lines about the peaks of a run's memory, as far as its report has them.

    Example:
        >>> memory_lines({"peak_rss_bytes": 3 << 30})
        ['peak memory: 3.00 GiB']
    """
    lines = []
    if "peak_rss_bytes" in report:
        lines.append(f"peak memory: {byte_text(report['peak_rss_bytes'])}")
    if "peak_activations_bytes" in report:
        peak = report["peak_activations_bytes"]
        memory, disk = byte_text(peak["memory"]), byte_text(peak["disk"])
        lines.append(f"peak of cached activations: {memory} in memory, {disk} on disk")
    return lines


def threads_text(count: int | None) -> str:
    """Return how many threads in words; "" where that is not known.

    Example:
        >>> threads_text(1), threads_text(2)
        ('1 thread', '2 threads')
    """
    return "" if count is None else "1 thread" if count == 1 else f"{count} threads"


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else form.format(value * factor)
