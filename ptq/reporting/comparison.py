"""WorkStore runs side by side: what each cost and kept, which is best, and what keeps them from being compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptq.errors import InputError
from ptq.reporting.report import read_report
from ptq.reporting.tables import Table
from ptq.reporting.text import threads_text

__all__ = ["Column", "Comparison", "Entry", "compare"]

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run.

    Args:
        name: of its directory, with as much of the path as tells it from the others.
        report: the content of its report.json.
    """

    name: str
    report: Report

    @property
    def model(self) -> str:
        """The name of its network."""
        return str(self.report["model"].get("name"))


@dataclass(frozen=True)
class Column:
    """One figure of all runs.

    Args:
        title: with the unit.
        values: one for each run; None where it was not measured.
        form: how a value is written.
        best: indices of the runs to mark, none of which failed a gate; empty where all are equal or cannot be compared.
    """

    title: str
    values: tuple[float | str | None, ...]
    form: str
    best: frozenset[int] = frozenset()

    def cells(self) -> list[str]:
        """Return the values as text, blank where there is none."""
        return [
            "" if v is None else v if isinstance(v, str) else f"{v:{self.form}}".replace("-", "−") for v in self.values
        ]


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
            ('smallest', 'w4a8', 'size 3.36 MB')
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
    if _unsteady(reports):
        every = [replace(c, best=frozenset()) if c.title == "latency ms" else c for c in every]
    columns = [column for column in every if any(v is not None for v in column.values)]
    return Comparison(entries, tuple(columns), tuple(_notes(entries)))


def _names(paths: Sequence[Path]) -> list[str]:
    """As few of the last parts of each path as tell all of them apart."""
    whole = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(set(whole)):
            break
    return names


def _model(report: Report) -> Any:
    model = report["model"]
    return model.get("name"), model.get("sha256"), str(model.get("preprocess"))


def _data(report: Report) -> Any:
    """What accuracy was measured on: only without labels each run's own images, which nobody else has."""
    return (report["settings"].get("data") or id(report)), report.get("validated_on")


def _machine(report: Report) -> Any:
    return _cpu(report), report["latency_ms"].get("threads")


def _cpu(report: Report) -> Any:
    return report.get("machine", {}).get("cpu")


STEADY = 1.2  # times that the same network's latency may differ by on a machine that does nothing else


def _unsteady(reports: Sequence[Report]) -> tuple[float, float] | None:
    """The lowest and the highest latency of the same float network on the same machine, where they are far apart."""
    alike = len({_model(report) for report in reports}) == len({_machine(r) for r in reports}) == 1
    taken = [r["latency_ms"]["float"] for r in reports if "float" in r["latency_ms"]]
    if not alike or not taken or max(taken) <= STEADY * min(taken):
        return None
    return min(taken), max(taken)


def _bits(report: Report) -> str:
    return f"{report['settings'].get('bits')}/{report['settings'].get('act_bits')}"


def _gates(report: Report) -> str | None:
    failed, known = report.get("failed"), report.get("gates")
    if failed is None:
        return None
    return f"{len(failed)} failed" if failed else f"{len(known)} passed" if known else "passed"


def _onnx(figure: str, factor: float = 1.0) -> Callable[[Report], float | None]:
    def value(report: Report) -> float | None:
        found = report[figure].get("onnx")
        return None if found is None else found * factor

    return value


def _over(report: Report) -> float | None:
    top1 = report["top1"]
    return top1["onnx"] - top1["float"] if {"onnx", "float"} <= top1.keys() else None


def _faster(report: Report) -> float | None:
    latency = report["latency_ms"]
    return latency["float"] / latency["onnx"] if {"onnx", "float"} <= latency.keys() else None


def _minutes(report: Report) -> float | None:
    seconds = report.get("seconds")
    return sum(seconds.values()) / 60 if seconds else None


Spec = tuple[str, Callable[[Report], Any], str, Callable[..., float] | None, Callable[[Report], Any] | None]
# Title, value, how it is written, which is best, and in what runs must agree for that to mean anything.
_COLUMNS: tuple[Spec, ...] = (
    ("bits W/A", _bits, "", None, None),
    ("top-1 %", _onnx("top1"), ".2f", max, _data),
    ("over float", _over, "+.2f", max, _data),
    ("same as float %", _onnx("agreement"), ".2f", max, _data),
    ("latency ms", _onnx("latency_ms"), ".2f", min, _machine),
    ("times as fast", _faster, ".2f", max, _machine),
    ("size MB", _onnx("size_bytes", 1e-6), ".2f", min, None),
    ("time min", _minutes, ".1f", None, None),
    ("gates", _gates, "", None, None),
)


_WINNERS = {"top-1 %": "most accurate", "latency ms": "fastest", "size MB": "smallest"}


def _column(
    reports: Sequence[Report],
    title: str,
    value: Callable[[Report], Any],
    form: str,
    choose: Callable[..., float] | None,
    within: Callable[[Report], Any] | None,
) -> Column:
    column = Column(title, tuple(_known(value(report)) for report in reports), form)
    # A file that computes something else than it should is the best of nothing.
    sound = [not report.get("failed") for report in reports]
    numbers = [v for v, good in zip(column.values, sound, strict=True) if good and isinstance(v, float | int)]
    alike = within is None or len({within(report) for report in reports}) == 1
    if choose is None or not alike or not numbers:
        return column
    cells = column.cells()
    (wanted,) = Column(title, (choose(numbers),), form).cells()  # as equal as they look
    best = frozenset(i for i, cell in enumerate(cells) if cell == wanted and sound[i])
    return column if len(best) == len(numbers) else replace(column, best=best)


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _notes(entries: Sequence[Entry]) -> list[str]:
    """In what the runs differ besides their settings."""
    reports = [entry.report for entry in entries]
    notes = []

    def several(of: Callable[[Report], Any]) -> bool:
        return len({of(report) for report in reports}) > 1

    if failed := [entry.name for entry in entries if entry.report.get("failed")]:
        notes.append(f"{', '.join(failed)} failed validation: never marked as the best")
    if several(_model):
        what = "models" if several(lambda r: r["model"].get("name")) else "weights or input sizes"
        notes.append(f"{what} differ: compare each with its own float network")
    if any(not report["top1"] for report in reports):
        notes.append(
            "without labeled images, agreement with float is of each run's own calibration images: no best is marked"
        )
    elif several(_data):
        notes.append(f"accuracy was measured on different data ({_each(entries, _data_words)}): no best is marked")
    if several(_machine) and not several(_cpu):
        notes.append(
            f"latency was measured with different numbers of threads ({_each(entries, _threads_words)}): no "
            "best is marked"
        )
    elif several(_machine):
        notes.append(
            f"latency was measured on different machines ({_each(entries, _machine_words)}): no best is marked"
        )
    if apart := _unsteady(reports):
        notes.append(
            f"the same float network took {apart[0]:.2f} to {apart[1]:.2f} ms: the machine was not equally busy, "
            "no best latency is marked; times as fast were measured in turns"
        )
    for library in ("onnxruntime", "torch", "ptq"):
        if several(version := _version(library)):
            notes.append(f"versions of {library} differ ({_each(entries, version)})")
    return notes


def _version(library: str) -> Callable[[Report], str]:
    return lambda report: str(report.get("versions", {}).get(library))


def _data_words(report: Report) -> str:
    return f"{report.get('validated_on')} images of {report['settings'].get('data')}"


def _machine_words(report: Report) -> str:
    return ", ".join(filter(None, (_cpu(report), _threads_words(report))))


def _threads_words(report: Report) -> str:
    return threads_text(report["latency_ms"].get("threads"))


def _each(entries: Sequence[Entry], words: Callable[[Report], str]) -> str:
    return "; ".join(f"{entry.name}: {words(entry.report)}" for entry in entries)
