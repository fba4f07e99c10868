"""What the pages of several kinds of run show alike: figures, images, pruning, seconds and settings."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptq.config.flat_options import named_values
from ptq.export.results import Validation
from ptq.pruning.results import PruneResult
from ptq.reporting.facts import ImageFacts, RunFacts
from ptq.reporting.html import gallery
from ptq.reporting.pruning_text import channel_rows, cost_rows, judged_on, pruning_lines, repair_rows
from ptq.reporting.text import agreement_name, figure_rows, image_lines
from ptq.utils.units import (
    duration_text,
    file_size_text,
    latency_text,
    number_text,
    percent_text,
    ratio_text,
    short_text,
    thread_text,
)

__all__ = [
    "Chart",
    "accuracy_cards",
    "card",
    "cost_cards",
    "figure_part",
    "image_part",
    "pruning_part",
    "settings_part",
    "time_part",
]


@dataclass(frozen=True)
class Chart:
    """A drawing: what stands above it, what it shows in words, and itself as SVG of our own making."""

    title: str
    alt: str
    svg: str


def card(name: str, figure: str, detail: str) -> dict[str, str]:
    """Return a headline figure: its number and its unit stand apart."""
    value, _, unit = figure.partition(" ")
    return {"name": name, "value": value, "unit": unit, "detail": detail}


def accuracy_cards(measured: Validation) -> Iterator[dict[str, str]]:
    """Yield the file's accuracy, as far as it was measured, beside that of the float network."""
    top1, agreement = measured.top1, measured.agreement
    if "onnx" in top1:
        detail = ""
        if "float" in top1:
            change = number_text(top1["onnx"] - top1["float"], sign=True)
            detail = f"{change} points (float {percent_text(top1['float'])})"
        yield card("top-1 accuracy", percent_text(top1["onnx"]), detail)
    for name, figures in measured.metrics.items():
        if "onnx" in figures:
            detail = f"float {short_text(figures['float'])}" if "float" in figures else ""
            yield card(name, short_text(figures["onnx"]), detail)
    if "onnx" not in top1 and "onnx" in agreement:
        detail = f"of {measured.validated_on:,} images without labels"
        yield card(agreement_name(measured), percent_text(agreement["onnx"]), detail)


def cost_cards(measured: Validation, seconds: Mapping[str, float]) -> Iterator[dict[str, str]]:
    """Yield what the file takes, as far as it was measured, and how long the run took."""
    latency, size = measured.latency_ms, measured.size_bytes
    if "onnx" in latency:
        detail = thread_text(latency.get("threads"))
        if "float" in latency:
            times = ratio_text(latency["float"], latency["onnx"])
            detail = f"{times} as fast (float {latency_text(latency['float'])})"
        yield card("latency", latency_text(latency["onnx"]), detail)
    if "onnx" in size:
        detail = ""
        if "float" in size:
            less, more = size["float"], size["onnx"]
            word = f"{ratio_text(less, more)} smaller" if less >= more else f"{ratio_text(more, less)} larger"
            detail = f"{word} (float {file_size_text(size['float'])})"
        yield card("size", file_size_text(size["onnx"]), detail)
    if seconds:
        longest, total = max(seconds, key=seconds.__getitem__), sum(seconds.values())
        share = percent_text(100 * seconds[longest] / max(total, 1e-9), 0)
        yield card("time of the run", duration_text(total), f"{longest} {share} of it")


def figure_part(measured: Validation, columns: tuple[str, ...], pruning: PruneResult | None = None) -> dict[str, Any]:
    """Return what sections/figures.html.j2 and sections/checks.html.j2 show."""
    count = f"{measured.validated_on:,}"
    if measured.top1:
        what = f"Accuracy on {count} labeled images"
    else:
        what = f"Agreement with float on {count} images without labels"
    rows = (*figure_rows(measured, columns), *cost_rows(pruning, columns))
    return {
        "measured_on": f"{what}; latency is the median at batch 1.",
        "columns": columns,
        "rows": [row for row in rows if any(row[1:])],
        "checks": measured.checks,
        "failures": measured.failed,
    }


def image_part(images: ImageFacts, folder: Path | None) -> dict[str, Any]:
    """Return what sections/images.html.j2 shows; without a folder no picture."""
    tiles = gallery.tiles(folder / "images.safetensors", images.names) if folder else []
    shown = [f"{len(tiles)} of them are shown"] if 0 < len(tiles) < images.count else []
    return {"image_lines": [*image_lines(images), *shown], "tiles": tiles}


def pruning_part(found: PruneResult | None) -> dict[str, Any]:
    """Return what sections/pruning.html.j2 shows; nothing without pruning."""
    if found is None:
        return {"pruning": [], "judged_on": "", "repair": [], "channels": []}
    return {
        "pruning": pruning_lines(found),
        "judged_on": judged_on(found),
        "repair": repair_rows(found),
        "channels": [*_channels(found)],
    }


def time_part(seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what sections/time.html.j2 shows of the stages."""
    most = max(seconds.values(), default=0.0) or 1.0
    stages = [
        {"name": name, "seconds": number_text(value, 1), "share": f"{100 * value / most:.2f}"}
        for name, value in seconds.items()
    ]
    return {"stages": stages, "together": number_text(sum(seconds.values()), 1)}


def settings_part(facts: RunFacts) -> dict[str, Any]:
    """Return what another run must agree in to give the same, and what this one ran on."""
    named = [
        *_named("model: ", asdict(facts.model)),
        *_named("", named_values(facts.settings)),
        *((f"version of {name}", version) for name, version in facts.versions.items()),
        *_named("machine: ", asdict(facts.machine)),
    ]
    return {"facts": named}


def _channels(found: PruneResult) -> Iterator[dict[str, Any]]:
    """The channels that layers write, and how wide they are drawn."""
    rows = channel_rows(found)
    most = max((before for _, before, _ in rows), default=1)
    for name, before, after in rows:
        shares = {"was": f"{100 * before / most:.2f}", "is": f"{100 * after / most:.2f}"}
        yield {"name": name, "before": before, "after": after, **shares}


def _named(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is set, each under its name; that of a part stands before it."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _named(f"{prefix}{name}.", value)
        elif value not in (None, "", (), [], False):
            yield f"{prefix}{name}", _value_text(value)


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_text, value))
    return short_text(value) if isinstance(value, float) else str(value)
