"""What a report says in words that several pages share: figures, images, exactness, memory."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ptq.export.results import Exact, Validation
from ptq.reporting.facts import ImageFacts
from ptq.reporting.report import Report
from ptq.reporting.tables import Table
from ptq.utils.units import byte_text, file_size_text, latency_text, number_text, percent_text, short_text, thread_text

__all__ = [
    "COLUMNS",
    "FLOAT_COLUMNS",
    "agreement_name",
    "bits_text",
    "exactness_lines",
    "figure_columns",
    "figure_lines",
    "figure_rows",
    "image_lines",
    "memory_lines",
    "repeating_command",
    "stage_table",
]

SAME = "same prediction as float"
ALWAYS = ("float", "simulated", "onnx")
COLUMNS = ("float", "pruned", "simulated", "onnx", "quantize_static", "openvino")
"""What is shown beside each other: always, and as far as it was measured."""
FLOAT_COLUMNS = ("float", "onnx")
"""The same of a run that ends in a float file."""


def figure_columns(measured: Validation) -> tuple[str, ...]:
    """Return what a run always measures, and what else this one did, of `COLUMNS`."""
    known = {
        *measured.top1,
        *(name for figures in measured.metrics.values() for name in figures),
        *measured.agreement,
        *measured.latency_ms,
    }
    return tuple(c for c in COLUMNS if c in ALWAYS or c in known)


def figure_rows(measured: Validation, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return accuracy, agreement, latency and size as text: a name and a cell for each column; blank where unknown."""
    latency = ", ".join(filter(None, ("ms", thread_text(measured.latency_ms.get("threads")))))
    sizes = {name: count / 1e6 for name, count in measured.size_bytes.items()}
    rows: tuple[tuple[str, Mapping[str, float], Callable[[float], str]], ...] = (
        ("top-1 (%)", measured.top1, number_text),
        *((name, figures, short_text) for name, figures in measured.metrics.items()),  # of any size
        *((name, figures, number_text) for name, figures in agreement_rows(measured)),
        (f"latency ({latency})", measured.latency_ms, number_text),
        ("size (MB)", sizes, number_text),
    )
    return [(name, *(text(figures[c]) if c in figures else "" for c in columns)) for name, figures, text in rows]


def agreement_name(measured: Validation) -> str:
    """Return what `Validation.agreement` is, in words."""
    if len(measured.outputs) > 1:
        return "agreement with float, worst output"
    return measured.outputs[0].measure if measured.outputs else SAME


def agreement_rows(measured: Validation) -> list[tuple[str, Mapping[str, float]]]:
    """Return the agreement with float of every output: what it is called, and the percentages by network."""
    if not measured.outputs:
        return [(f"{SAME} (%)", measured.agreement)]
    several = len(measured.outputs) > 1
    return [(f"{o.name}: {o.measure} (%)" if several else f"{o.measure} (%)", o.agreement) for o in measured.outputs]


def figure_lines(
    *,
    top1: Mapping[str, float] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    agreement: Mapping[str, float] | None = None,
    latency_ms: Mapping[str, float] | None = None,
    size_bytes: Mapping[str, int] | None = None,
) -> list[str]:
    """Return a line for each kind of figure that was measured, with those of `COLUMNS`.

    Example:
        >>> figure_lines(size_bytes={"float": 4_000_000, "onnx": 1_000_000})
        ['size        float 4.00 MB  onnx 1.00 MB']
    """
    kinds: tuple[tuple[str, Mapping[str, float] | None, Callable[[float], str]], ...] = (
        ("top-1", top1, percent_text),
        *((name, figures, short_text) for name, figures in (metrics or {}).items()),
        ("agreement", agreement, percent_text),
        ("latency", latency_ms, latency_text),
        ("size", size_bytes, file_size_text),
    )
    lines = []
    for kind, figures, text in kinds:
        known = figures or {}
        shown = [f"{name} {text(known[name])}" for name in COLUMNS if name in known]
        if shown:
            lines.append(f"{kind:11} {'  '.join(shown)}")
    return lines


def image_lines(images: ImageFacts) -> list[str]:
    """Return what is known about a set of images, a line each.

    Example:
        >>> from ptq.reporting.facts import ImageFacts
        >>> image_lines(ImageFacts(64, "noise"))
        ['64 images: noise']
    """
    teachers = ", ".join(teacher.name for teacher in images.teachers)
    lines = [f"{images.count} images: {images.source}" + (f" from {teachers}" if teachers else "")]
    quality = images.quality
    if quality is None:
        return lines
    distances = ", ".join(f"{name} {number_text(value, 3)}" for name, value in quality.statistics.items())
    lines.append(f"distance from the BatchNorm statistics: {distances} (0 is the training data)")
    if quality.label_accuracy is not None:
        lines.append(f"{quality.verifier} sees the label in {percent_text(100 * quality.label_accuracy, 0)} of them")
    lines.append(f"they vary as much as {number_text(quality.diversity, 1)} images that have nothing in common")
    return lines


def exactness_lines(found: Exact | None) -> list[str]:
    """Return a line about how the file compares with exact integer arithmetic, where it was compared.

    Example:
        >>> from ptq.export.results import Exact
        >>> exactness_lines(Exact(images=64, differing=0, largest=0.0))
        ['bit for bit what exact integer arithmetic gives, on 64 images']
    """
    if found is None:
        return []
    if found.differing == 0:
        return [f"bit for bit what exact integer arithmetic gives, on {found.images} images"]
    return [
        f"differs from exact integer arithmetic on {found.differing} of {found.images} images, by up to "
        f"{100 * found.largest:.2g} % of the largest output"
    ]


def memory_lines(report: Report) -> list[str]:
    """Return the peaks of a run's memory, a line each."""
    cached = report.peak_activations_bytes
    return [
        f"peak memory: {byte_text(report.peak_rss_bytes)}",
        f"peak of cached activations: {byte_text(cached.memory)} in memory, {byte_text(cached.disk)} on disk",
    ]


def finetuning_line(report: Report) -> str:
    """Return what fine-tuning brought, in a sentence; empty where there was none."""
    found = report.finetuning
    if found is None:
        return ""
    brought = (
        f"{found.before:.4f} -> {found.after:.4f}"
        if found.kept
        else f"it stays at {found.before:.4f}, nothing was kept"
    )
    return (
        f"Fine-tuning of the whole network, {found.iterations} iterations: divergence from the float network's "
        f"predictions on {found.images} images that took no part {brought}."
    )


def bits_text(layers: Iterable[str], bits: Mapping[str, int | None]) -> str:
    """Return the bits that the weights of some layers have, in ascending order.

    Example:
        >>> bits_text(["stem", "conv1", "conv2"], {"stem": 8, "conv1": 4, "conv2": 4})
        '4, 8'
    """
    return ", ".join(map(str, sorted({n for layer in layers if (n := bits.get(layer)) is not None})))


def repeating_command(name: str, folder: Path) -> str:
    """Return the line of shell that repeats a run from its recipe.

    Example:
        >>> repeating_command("prune", Path("runs/small"))
        'ptq prune --config runs/small/recipe.toml'
    """
    return shlex.join(["ptq", name, "--config", str(folder / "recipe.toml")])


def stage_table(seconds: Mapping[str, float]) -> str:
    """Return the seconds of every stage as a Markdown table."""
    return Table(
        "", ("stage", "seconds"), [(name, number_text(value, 1)) for name, value in seconds.items()]
    ).markdown()
