"""report.json for programs and report.md for people, in a run's directory."""

from pathlib import Path

from ptq.reporting.advice import badges, next_steps
from ptq.reporting.bits import activations_text, allocation_lines, frontier_table, weights_text
from ptq.reporting.facts import read_facts, write_facts
from ptq.reporting.pruning_text import channel_table, cost_rows, pruning_lines, repair_table
from ptq.reporting.rendering import render
from ptq.reporting.report import Report
from ptq.reporting.tables import Table
from ptq.reporting.text import (
    bits_text,
    exactness_lines,
    figure_columns,
    figure_rows,
    finetuning_line,
    image_lines,
    memory_lines,
    stage_table,
)
from ptq.utils.files import atomic
from ptq.utils.units import decibel_text, number_text

__all__ = ["markdown", "read_report", "write_report"]


def write_report(report: Report, folder: Path) -> None:
    """Write report.json and report.md into `folder`, each atomically."""
    write_facts(report, folder)
    with atomic(folder / "report.md") as path:
        path.write_text(markdown(report))


def read_report(folder: Path) -> Report:
    """Return the report of a run directory.

    Raises:
        InputError: where there is none, or one that is damaged or of another version.
    """
    return read_facts(Report, folder)


def markdown(report: Report) -> str:
    """Return a report as a Markdown page.

    Example:
        >>> markdown(read_report("runs/resnet18-w4a8")).splitlines()[0]  # doctest: +SKIP
        '# resnet18, weights 4 bits, activations 8 bits'
    """
    columns = figure_columns(report.validation)
    figures = [*figure_rows(report.validation, columns), *cost_rows(report.pruning, columns)]
    blocks = [
        (
            block.name,
            bits_text(block.layers, report.bits),
            decibel_text(block.sqnr_nearest),
            decibel_text(block.sqnr),
            block.kept,
            number_text(block.seconds, 1),
        )
        for block in report.blocks
    ]
    allocation = report.allocation
    content = {
        "report": report,
        "weights": weights_text(report.settings.quantization),
        "activations": activations_text(report.settings.quantization),
        "allocation_lines": allocation and allocation_lines(allocation, report.validation.size_bytes.get("onnx")),
        "frontier": allocation and frontier_table(allocation.frontier).markdown(),
        "badges": badges(report),
        "figures": Table("", ("", *columns), figures).markdown(),
        "steps": next_steps(report, report.settings.output.folder),
        "notes": [*report.notes, *report.validation.unmeasured, *exactness_lines(report.validation.exact)],
        "image_lines": image_lines(report.images),
        "pruning_lines": pruning_lines(report.pruning),
        "channels": channel_table(report.pruning),
        "repair": repair_table(report.pruning),
        "blocks": Table(
            "", ("block", "bits", "nearest (dB)", "kept (dB)", "what was kept", "seconds"), blocks
        ).markdown(),
        "finetuning": finetuning_line(report),
        "stages": stage_table(report.seconds),
        "memory_lines": memory_lines(report),
    }
    return render("quantized.md.j2", content)
