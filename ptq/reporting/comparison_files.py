"""A comparison of runs on the terminal, and as Markdown, CSV or HTML, with charts where matplotlib is installed."""

import csv
import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ptq.errors import InputError
from ptq.reporting.comparison import Comparison
from ptq.reporting.html.page import require
from ptq.reporting.rendering import render
from ptq.utils.files import atomic

if TYPE_CHECKING:
    from ptq.reporting.html.plots import Point

__all__ = ["check_suffix", "print_comparison", "write_comparison"]


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print the table, with a star at the best of a column, and the notes."""
    console = console or Console()
    console.print("", found.table(lambda cell, best: cell and cell + "* "[not best]).drawn())
    lines = [*found.notes, *(["* is the best of its column"] if _marked(found) else [])]
    for line in ["", *lines]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def check_suffix(path: Path) -> None:
    """Refuse a file that `write_comparison` would not know how to write.

    Raises:
        InputError: naming what it knows.
    """
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"--out: {path} has none of the endings {', '.join(_WRITERS)}")
    if path.is_dir():
        raise InputError(f"--out: {path} is a folder; give a file")


def write_comparison(found: Comparison, path: Path) -> list[Path]:
    """Write a comparison in the format that the file's suffix names; returns what was written.

    Args:
        found: any comparison.
        path: .md (and its chart as .svg beside it, where matplotlib is installed), .csv or .html.

    Raises:
        InputError: for another suffix, or an HTML page without matplotlib.
    """
    check_suffix(path)
    wrote = []
    for name, text in _WRITERS[path.suffix.lower()](found, path).items():
        with atomic(path.with_name(name)) as temporary:
            temporary.write_text(text, encoding="utf-8")
        wrote.append(path.with_name(name))
    return wrote


def _markdown(found: Comparison, path: Path) -> dict[str, str]:
    def bold(cell: str, best: bool) -> str:
        return f"**{cell}**" if best else cell

    parts = [found.table(bold).markdown(), "\n".join(f"- {note}" for note in found.notes)]
    files: dict[str, str] = {}
    if importlib.util.find_spec("matplotlib") is not None:
        from ptq.reporting.html import plots

        score, panels = _panels(found)
        if panels:
            drawing = path.with_suffix(".svg").name
            files[drawing] = plots.tradeoff_file(panels, score)
            parts.append(f"![{score} over {' and '.join(panels)}](<{drawing}>)")
    return {path.name: "\n\n".join(part for part in parts if part) + "\n", **files}


def _csv(found: Comparison, path: Path) -> dict[str, str]:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["run", "model", *(column.title for column in found.columns)])
    for index, entry in enumerate(found.entries):
        writer.writerow([entry.name, entry.model, *(column.values[index] for column in found.columns)])
    return {path.name: stream.getvalue()}


def _html(found: Comparison, path: Path) -> dict[str, str]:
    require()
    from ptq.reporting.html import plots
    from ptq.reporting.html.parts import Chart

    score, panels = _panels(found)
    charts = [
        Chart(cost, f"{score} over {cost}", plots.tradeoff(points, cost, score)) for cost, points in panels.items()
    ]
    table = found.table(lambda cell, best: cell)
    content: dict[str, Any] = {
        "title": table.title,
        "names": [row[0] for row in table.rows],
        "columns": found.columns,
        "marked": _marked(found),
        "winners": found.winners(),
        "failed": [bool(entry.report.validation.failed) for entry in found.entries],
        "notes": found.notes,
        "charts": charts,
    }
    return {path.name: render("compare.html.j2", content)}


_WRITERS: dict[str, Callable[[Comparison, Path], dict[str, str]]] = {".md": _markdown, ".csv": _csv, ".html": _html}


def _panels(found: Comparison) -> "tuple[str, dict[str, list[Point]]]":
    """What the vertical axis of all charts shows, and the points of each; charts of nothing are left out."""
    from ptq.reporting.html.plots import Point

    measured = [entry.report.validation for entry in found.entries]
    labeled = all("onnx" in one.top1 for one in measured)
    many = len({entry.model for entry in found.entries}) > 1
    panels: dict[str, list[Point]] = {}
    for title, factor in (("size MB", 1e-6), ("latency ms", 1.0)):
        points: dict[tuple[str, float, float], Point] = {}
        for entry, one in zip(found.entries, measured, strict=True):
            costs: Mapping[str, float] = one.size_bytes if title == "size MB" else one.latency_ms
            scores = {"float": 100.0, **(one.top1 if labeled else one.agreement)}
            for name, label in (("float", entry.model if many else "float"), ("onnx", entry.name)):
                if name in scores and name in costs:
                    at = (label, costs[name] * factor, scores[name])
                    points.setdefault(at, Point(*at, reference=name == "float"))
        if any(not point.reference for point in points.values()):
            panels[title] = list(points.values())
    score = "top-1 %" if labeled else "same as float %"
    return score, panels


def _marked(found: Comparison) -> bool:
    return any(column.best for column in found.columns)
