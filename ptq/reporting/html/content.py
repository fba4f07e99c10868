"""What stands in report.html, put together from a report: text, shares in percent, and charts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptq.analysis.distributions import Histogram, LayerDistribution
from ptq.config.flat_options import named_values
from ptq.pruning.results import PruneResult
from ptq.reconstruction.results import BlockResult
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.bits import activations_text, allocation_lines, weights_text
from ptq.reporting.html import bit_charts, gallery, plots
from ptq.reporting.pruning_text import channel_rows, cost_rows, judged_on, pruning_lines, repair_rows
from ptq.reporting.report import Report
from ptq.reporting.text import (
    agreement_name,
    bits_text,
    exactness_lines,
    figure_columns,
    figure_rows,
    finetuning_line,
    image_lines,
    memory_lines,
)
from ptq.utils.units import (
    decibel_text,
    duration_text,
    file_size_text,
    latency_text,
    number_text,
    percent_text,
    ratio_text,
    short_text,
    thread_text,
)

__all__ = ["Chart", "content"]

FARTHEST = 1e30  # that matplotlib can draw axes to


@dataclass(frozen=True)
class Chart:
    """A drawing: what stands above it, what it shows in words, and itself as SVG of our own making."""

    title: str
    alt: str
    svg: str


def content(report: Report, folder: Path | None) -> dict[str, Any]:
    """Return what `report.html.j2` shows.

    Args:
        report: of the run.
        folder: holds images.safetensors; None leaves the images out.
    """
    bits, measured, images = report.settings.quantization, report.validation, report.images
    columns = figure_columns(measured)
    tiles = gallery.tiles(folder / "images.safetensors", images.names) if folder else []
    pictures = gallery.pictures(folder / "outputs.safetensors") if folder else []
    return {
        "title": report.model.name,
        "subtitle": "; ".join(
            [
                f"{weights_text(bits)}, {activations_text(bits)}",
                *pruning_lines(report.pruning)[:1],
                image_lines(images)[0],
            ]
        ),
        "badges": badges(report),
        "failures": measured.failed,
        "cards": [*_cards(report)],
        "steps": next_steps(report, str(folder or report.settings.output.folder)),
        "measured_on": _measured_on(report),
        "columns": columns,
        "rows": [row for row in (*figure_rows(measured, columns), *cost_rows(report.pruning, columns)) if any(row[1:])],
        "checks": measured.checks,
        "image_lines": [
            *image_lines(images),
            *([f"{len(tiles)} of them are shown"] if 0 < len(tiles) < images.count else []),
        ],
        "tiles": tiles,
        "pictures": pictures,
        "pruning": pruning_lines(report.pruning),
        "judged_on": "" if report.pruning is None else judged_on(report.pruning),
        "repair": [] if report.pruning is None else repair_rows(report.pruning),
        "channels": [] if report.pruning is None else [*_channels(report.pruning)],
        "scale": _scale(report.blocks),
        "blocks": [*_blocks(report)],
        "finetuning": finetuning_line(report),
        "allocation": _allocation(report),
        "curves": [*_curves(report.blocks)],
        "layers": [_layer(layer) for layer in report.worst_layers],
        "stages": _stages(report.seconds),
        "together": number_text(sum(report.seconds.values()), 1),
        "memory": memory_lines(report),
        "command": report.command,
        "notes": [*report.notes, *measured.unmeasured, *exactness_lines(measured.exact)],
        "facts": [*_facts(report)],
    }


def _measured_on(report: Report) -> str:
    count = f"{report.validation.validated_on:,}"
    if report.validation.top1:
        what = f"Accuracy on {count} labeled images"
    else:
        what = f"Agreement with float on {count} calibration images, without labels"
    return f"{what}; latency is the median at batch 1."


def _cards(report: Report) -> Iterator[dict[str, str]]:
    """The headline figures, as far as they were measured."""
    top1, agreement = report.validation.top1, report.validation.agreement
    latency, size = report.validation.latency_ms, report.validation.size_bytes
    if "onnx" in top1:
        detail = ""
        if "float" in top1:
            change = number_text(top1["onnx"] - top1["float"], sign=True)
            detail = f"{change} points (float {percent_text(top1['float'])})"
        yield _card("top-1 accuracy", percent_text(top1["onnx"]), detail)
    for name, figures in report.validation.metrics.items():
        if "onnx" in figures:
            detail = f"float {short_text(figures['float'])}" if "float" in figures else ""
            yield _card(name, short_text(figures["onnx"]), detail)
    if "onnx" not in top1 and "onnx" in agreement:
        detail = "of calibration images; no labels were given"
        yield _card(agreement_name(report.validation), percent_text(agreement["onnx"]), detail)
    if "onnx" in latency:
        detail = thread_text(latency.get("threads"))
        if "float" in latency:
            times = ratio_text(latency["float"], latency["onnx"])
            detail = f"{times} as fast (float {latency_text(latency['float'])})"
        yield _card("latency", latency_text(latency["onnx"]), detail)
    if "onnx" in size:
        detail = ""
        if "float" in size:
            less, more = size["float"], size["onnx"]
            word = f"{ratio_text(less, more)} smaller" if less >= more else f"{ratio_text(more, less)} larger"
            detail = f"{word} (float {file_size_text(size['float'])})"
        yield _card("size", file_size_text(size["onnx"]), detail)
    if seconds := report.seconds:
        longest, total = max(seconds, key=seconds.__getitem__), sum(seconds.values())
        share = percent_text(100 * seconds[longest] / max(total, 1e-9), 0)
        yield _card("time of the run", duration_text(total), f"{longest} {share} of it")


def _card(name: str, figure: str, detail: str) -> dict[str, str]:
    value, _, unit = figure.partition(" ")
    return {"name": name, "value": value, "unit": unit, "detail": detail}


def _channels(found: PruneResult) -> Iterator[dict[str, Any]]:
    """The channels that layers write, and how wide they are drawn."""
    rows = channel_rows(found)
    most = max((before for _, before, _ in rows), default=1)
    for name, before, after in rows:
        shares = {"was": f"{100 * before / most:.2f}", "is": f"{100 * after / most:.2f}"}
        yield {"name": name, "before": before, "after": after, **shares}


def _scale(blocks: Sequence[BlockResult]) -> tuple[int, int]:
    """The ends of the axis of decibels, multiples of 10; what is infinite stands at an end."""
    known = [db for block in blocks for db in (block.sqnr_nearest, block.sqnr) if math.isfinite(db)]
    low, high = min(known, default=0.0), max(known, default=10.0)
    return 10 * math.floor(low / 10), max(10 * math.ceil(high / 10), 10 * math.floor(low / 10) + 10)


def _blocks(report: Report) -> Iterator[dict[str, str]]:
    low, high = _scale(report.blocks)

    def place(db: float) -> str:
        share = 0.5 if math.isnan(db) else (max(low, min(high, db)) - low) / (high - low)
        return f"{100 * share:.2f}"

    for block in report.blocks:
        bits = bits_text(block.layers, report.bits)
        yield {
            "name": block.name,
            "detail": ", ".join([f"{bits} bits" if bits else "no layers", block.kept, duration_text(block.seconds)]),
            "nearest": decibel_text(block.sqnr_nearest),
            "kept": decibel_text(block.sqnr),
            "start": place(block.sqnr_nearest),
            "end": place(block.sqnr),
        }


def _curves(blocks: Sequence[BlockResult]) -> Iterator[Chart]:
    for block in blocks:
        if curves := _finite(block.losses):
            alt = f"loss of {block.name}: from {curves[0][0]:.3g} to {curves[-1][-1]:.3g}"
            yield Chart(block.name, alt, plots.loss_curves(curves, alt))


def _finite(curves: Sequence[Sequence[float]]) -> list[list[float]]:
    kept = ([value for value in curve if math.isfinite(value)] for curve in curves)
    return [curve for curve in kept if curve]


def _allocation(report: Report) -> dict[str, Any] | None:
    """What was chosen for a budget; None where there was none."""
    if (found := report.allocation) is None:
        return None
    bits = ", ".join(f"{name} {count}" for name, count in found.bits.items())
    frontier = "; ".join(f"{file_size_text(p.size)}: {short_text(100 * p.harm)} %" for p in found.frontier)
    drawing = bit_charts.draw_frontier(found.frontier, found.size, found.predicted, found.measured)
    return {
        "lines": allocation_lines(found, report.validation.size_bytes.get("onnx")),
        "bits": Chart(
            "Bits of every layer", f"bits of every layer: {bits}", bit_charts.draw_bits([*found.bits.values()])
        ),
        "frontier": Chart("Size and error", f"error of the output for sizes of the file: {frontier}", drawing),
    }


def _layer(layer: LayerDistribution) -> dict[str, Any]:
    parts = [("weight", layer.weight, layer.bits, "steps of its channel")]
    if layer.input is not None and layer.input_bits is not None:
        parts.append(("input", layer.input, layer.input_bits, "value"))
    charts = []
    for name, data, bits, unit in parts:
        if not _drawable(data):
            continue
        beyond = f"{percent_text(100 * data.clipped)} clipped"
        alt = f"histogram of the {name} of {layer.name}: {beyond}"
        charts.append(Chart(f"{name}, {bits} bits, {beyond}", alt, plots.histogram(data, unit, 1 << bits, alt)))
    return {
        "name": layer.name,
        "detail": f"output {decibel_text(layer.sqnr)} dB above the noise of quantizing this layer alone",
        "charts": charts,
    }


def _drawable(data: Histogram) -> bool:
    """Whether axes can have such ends: activations may be infinite, and files say anything."""
    ends = (data.low, data.high, data.step, data.grid_low, data.grid_high)
    return bool(data.counts) and all(abs(end) < FARTHEST for end in ends)


def _stages(seconds: Mapping[str, float]) -> list[dict[str, str]]:
    most = max(seconds.values(), default=0.0) or 1.0
    return [
        {"name": name, "seconds": number_text(value, 1), "share": f"{100 * value / most:.2f}"}
        for name, value in seconds.items()
    ]


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """What another run must agree in to give the same, and what this one ran on."""
    yield from _named("model: ", asdict(report.model))
    yield from _named("", named_values(report.settings))
    yield from ((f"version of {name}", version) for name, version in report.versions.items())
    yield from _named("machine: ", asdict(report.machine))


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
