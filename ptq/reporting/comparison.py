"""Finished runs side by side: what each cost and kept, and which is best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ptq.config.bit_budget import bit_budget
from ptq.errors import InputError
from ptq.reporting.comparison_notes import Entry, Key, data_key, machine_key, notes, unsteady
from ptq.reporting.report import Report
from ptq.reporting.report_files import read_report
from ptq.reporting.tables import Table
from ptq.utils.units import number_text

__all__ = ["Column", "Comparison", "compare"]

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One figure of all runs.

    Args:
        title: with the unit.
        values: one for each run; None where it was not measured.
        written: a number -> text.
        best: indices of the runs to mark, none of which failed a check; empty where all are equal or cannot be compared.
    """

    title: str
    values: tuple[Value, ...]
    written: Callable[[float], str] = number_text
    best: frozenset[int] = frozenset()

    def cells(self) -> list[str]:
        """Return the values as text, blank where there is none."""
        return ["" if v is None else v if isinstance(v, str) else self.written(v) for v in self.values]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        entries: the runs, in the order they were given.
        columns: what is known of at least one of them.
        notes: in what the runs differ otherwise, and what follows from it.
    """

    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    def table(self, mark: Callable[[str, bool], str]) -> Table:
        """Return a table of text.

        Args:
            mark: a cell, and whether it is the best of its column -> what to show.
        """
        shown = [
            [mark(cell, index in column.best) for index, cell in enumerate(column.cells())] for column in self.columns
        ]
        many = len({entry.model for entry in self.entries}) > 1
        rows = [
            [f"{entry.name} ({entry.model})" if many else entry.name, *(cells[index] for cells in shown)]
            for index, entry in enumerate(self.entries)
        ]
        title = f"{len(rows)} runs" + ("" if many else f" of {self.entries[0].model}")
        return Table(title, ["run", *(column.title for column in self.columns)], rows)

    def winners(self) -> list[tuple[str, str, str]]:
        """Return what the best runs of one network are best in, their names, and the figure with its title.

        Example:
            >>> compare(["runs/w8a8", "runs/w4a8"]).winners()[-1]
            ('smallest', 'w4a8', 'size 0.60 MB')
        """
        found: list[tuple[str, str, str]] = []
        if len({entry.model for entry in self.entries}) > 1:
            return found
        for column in self.columns:
            if column.best and column.title in _WINNERS:
                first, names = min(column.best), [self.entries[i].name for i in sorted(column.best)]
                name, _, unit = column.title.rpartition(" ")
                figure = f"{name} {column.cells()[first]} {unit}"
                found.append((_WINNERS[column.title], ", ".join(names), figure))
        return found


def compare(folders: Sequence[Path | str]) -> Comparison:
    """Read finished runs and put them side by side.

    Args:
        folders: run directories, at least one; a validated file's model, data and machine may differ.

    Raises:
        InputError: for a directory without a readable report.

    Example:
        >>> compare(["runs/w8a8", "runs/w4a8"]).columns[1].title
        'top-1 %'
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise InputError(f"there is no run directory {path}.")
    reports = [read_report(path) for path in paths]
    entries = tuple(map(Entry, _names(paths), reports))
    every = [_column(reports, *spec) for spec in _COLUMNS]
    if unsteady(reports):
        every = [replace(c, best=frozenset()) if c.title == "latency ms" else c for c in every]
    columns = [column for column in every if any(v is not None for v in column.values)]
    return Comparison(entries, tuple(columns), tuple(notes(entries)))


def _names(paths: Sequence[Path]) -> list[str]:
    """As few of the last parts of each path as tell all of them apart."""
    whole = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(set(whole)):
            break
    return names


def _bits(report: Report) -> str:
    bits = report.settings.quantization
    return f"{bits.bits if bit_budget(bits) is None else 'mixed'}/{bits.act_bits}"


def _top1(report: Report) -> float | None:
    return report.validation.top1.get("onnx")


def _over_float(report: Report) -> float | None:
    top1 = report.validation.top1
    return top1["onnx"] - top1["float"] if {"onnx", "float"} <= top1.keys() else None


def _agreement(report: Report) -> float | None:
    return report.validation.agreement.get("onnx")


def _latency(report: Report) -> float | None:
    return report.validation.latency_ms.get("onnx")


def _faster(report: Report) -> float | None:
    latency = report.validation.latency_ms
    return latency["float"] / latency["onnx"] if {"onnx", "float"} <= latency.keys() and latency["onnx"] else None


def _megabytes(report: Report) -> float | None:
    count = report.validation.size_bytes.get("onnx")
    return None if count is None else count * 1e-6


def _minutes(report: Report) -> float | None:
    return sum(report.seconds.values()) / 60 if report.seconds else None


def _checks(report: Report) -> str:
    failed = len(report.validation.failed)
    return f"{failed} failed" if failed else f"{len(report.validation.checks)} passed"


Spec = tuple[
    str, Callable[[Report], Value], Callable[[float], str], Callable[[Sequence[float]], float] | None, Key | None
]
# Title, value, how it is written, which is best, and in what runs must agree for that to mean anything.
_COLUMNS: tuple[Spec, ...] = (
    ("bits W/A", _bits, number_text, None, None),
    ("top-1 %", _top1, number_text, max, data_key),
    ("over float", _over_float, partial(number_text, sign=True), max, data_key),
    ("same as float %", _agreement, number_text, max, data_key),
    ("latency ms", _latency, number_text, min, machine_key),
    ("times as fast", _faster, number_text, max, machine_key),
    ("size MB", _megabytes, number_text, min, None),
    ("time min", _minutes, partial(number_text, digits=1), None, None),
    ("checks", _checks, number_text, None, None),
)
_WINNERS = {"top-1 %": "most accurate", "latency ms": "fastest", "size MB": "smallest"}


def _column(
    reports: Sequence[Report],
    title: str,
    value: Callable[[Report], Value],
    written: Callable[[float], str],
    choose: Callable[[Sequence[float]], float] | None,
    within: Key | None,
) -> Column:
    column = Column(title, tuple(_known(value(report)) for report in reports), written)
    # A file that computes something else than it should is the best of nothing.
    sound = [not report.validation.failed for report in reports]
    numbers = [v for v, good in zip(column.values, sound, strict=True) if good and isinstance(v, float | int)]
    alike = within is None or len({within(report) for report in reports}) == 1
    if choose is None or not alike or not numbers:
        return column
    wanted = written(choose(numbers))  # as equal as they look
    best = frozenset(i for i, cell in enumerate(column.cells()) if cell == wanted and sound[i])
    return column if len(best) == len(numbers) else replace(column, best=best)


def _known(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
