"""report.json for programs and report.md for people, in a run's directory."""

import json
import re
from pathlib import Path

from ptq.errors import InputError
from ptq.pruning.results import PruneResult
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.bits import activations_text, allocation_lines, frontier_table, weights_text
from ptq.reporting.pruning_text import channel_rows, cost_rows, judged_on, pruning_lines, repair_rows
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
)
from ptq.utils.files import atomic
from ptq.utils.units import decibel_text, number_text

__all__ = ["markdown", "read_report", "write_report"]


def write_report(report: Report, folder: Path) -> None:
    """Write report.json and report.md into `folder`, each atomically."""
    with atomic(folder / "report.json") as path:
        path.write_text(_rows_of_numbers(json.dumps(report.to_json(), indent=2)) + "\n")
    with atomic(folder / "report.md") as path:
        path.write_text(markdown(report))


def read_report(folder: Path) -> Report:
    """Return the report of a run directory.

    Raises:
        InputError: where there is none, or one that is damaged or of another version.
    """
    try:
        return Report.from_json(json.loads((folder / "report.json").read_text()))
    except (OSError, ValueError, RecursionError, InputError) as error:
        reason = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(
            f"{folder} has no readable report.json{reason}: give the directory of a finished run, or run ptq quantize again."
        ) from error


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
    stages = [(name, number_text(seconds, 1)) for name, seconds in report.seconds.items()]
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
        "channels": _channels(report.pruning),
        "repair": _repair(report.pruning),
        "blocks": Table(
            "", ("block", "bits", "nearest (dB)", "kept (dB)", "what was kept", "seconds"), blocks
        ).markdown(),
        "finetuning": finetuning_line(report),
        "stages": Table("", ("stage", "seconds"), stages).markdown(),
        "memory_lines": memory_lines(report),
    }
    return render("report.md.j2", content)


def _channels(found: PruneResult | None) -> str:
    """The channels that layers write, as a table; empty without pruning."""
    if found is None:
        return ""
    rows = [(name, str(before), str(after)) for name, before, after in channel_rows(found)]
    return Table("", ("layer", "channels before", "after"), rows).markdown()


def _repair(found: PruneResult | None) -> str:
    """What each step of repair brought, as a table; empty without pruning."""
    if found is None:
        return ""
    head = ("step", "agreement with float (%)", "loss", "signal to noise (dB)", "seconds")
    return f"What each step brought, {judged_on(found)}.\n\n{Table('', head, repair_rows(found)).markdown()}"


def _rows_of_numbers(text: str) -> str:
    """Put arrays of numbers on one line each: curves and histograms have hundreds.

    Text cannot be hit, because a line break in it is written as two characters.
    """
    return re.sub(r"\[\n\s*([-+.\w]+(?:,\n\s*[-+.\w]+)*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
