"""What stands in the page of a quantized network, put together from its report: text, shares in percent, and charts."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptq.analysis.distributions import Histogram, LayerDistribution
from ptq.reconstruction.results import BlockResult
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.bits import activations_text, allocation_lines, weights_text
from ptq.reporting.html import bit_charts, gallery, plots
from ptq.reporting.html.parts import (
    Chart,
    accuracy_cards,
    cost_cards,
    figure_part,
    image_part,
    pruning_part,
    settings_part,
    time_part,
)
from ptq.reporting.pruning_text import pruning_lines
from ptq.reporting.report import Report
from ptq.reporting.text import bits_text, exactness_lines, figure_columns, finetuning_line, image_lines, memory_lines
from ptq.utils.units import decibel_text, duration_text, file_size_text, percent_text, short_text

__all__ = ["content"]

FARTHEST = 1e30  # that matplotlib can draw axes to


def content(report: Report, folder: Path | None) -> dict[str, Any]:
    """Return what `quantized.html.j2` shows.

    Args:
        report: of the run.
        folder: holds images.safetensors; None leaves the images out.
    """
    bits, measured = report.settings.quantization, report.validation
    return {
        "title": report.model.name,
        "subtitle": "; ".join(
            [
                f"{weights_text(bits)}, {activations_text(bits)}",
                *pruning_lines(report.pruning)[:1],
                image_lines(report.images)[0],
            ]
        ),
        "badges": badges(report),
        "cards": [*accuracy_cards(measured), *cost_cards(measured, report.seconds)],
        "steps": next_steps(report, str(folder or report.settings.output.folder)),
        **figure_part(measured, figure_columns(measured), report.pruning),
        **image_part(report.images, folder),
        "pictures": gallery.pictures(folder / "outputs.safetensors") if folder else [],
        **pruning_part(report.pruning),
        "scale": _scale(report.blocks),
        "blocks": [*_blocks(report)],
        "finetuning": finetuning_line(report),
        "allocation": _allocation(report),
        "curves": [*_curves(report.blocks)],
        "layers": [_layer(layer) for layer in report.worst_layers],
        **time_part(report.seconds),
        "memory": memory_lines(report),
        "command": report.command,
        "notes": [*report.notes, *measured.unmeasured, *exactness_lines(measured.exact)],
        **settings_part(report),
    }


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
