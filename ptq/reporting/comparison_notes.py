"""What keeps runs from being compared: in what they differ besides their settings, and what follows from it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from ptq.reporting.report import Report
from ptq.utils.units import latency_text, number_text, thread_text

__all__ = ["Entry", "Key", "data_key", "machine_key", "notes", "unsteady"]

Key = Callable[[Report], Hashable]
"""What two runs must agree in."""
STEADY = 1.2  # times that the same network's latency may differ by on a machine that does nothing else


@dataclass(frozen=True)
class Entry:
    """One run.

    Args:
        name: of its directory, with as much of the path as tells it from the others.
        report: of the run.
    """

    name: str
    report: Report

    @property
    def model(self) -> str:
        """The name of its network."""
        return self.report.model.name


def data_key(report: Report) -> Hashable:
    """Return what accuracy was measured on: without labels each run's own images, which nobody else has."""
    return report.settings.evaluation.data or id(report), report.validation.validated_on


def machine_key(report: Report) -> Hashable:
    """Return what latency depends on besides the file."""
    return report.machine.cpu, report.validation.latency_ms.get("threads")


def unsteady(reports: Sequence[Report]) -> tuple[float, float] | None:
    """Return the lowest and the highest latency of the same float network on the same machine, if far apart."""
    alike = len({_model_key(report) for report in reports}) == len({machine_key(r) for r in reports}) == 1
    taken = [r.validation.latency_ms["float"] for r in reports if "float" in r.validation.latency_ms]
    if not alike or not taken or max(taken) <= STEADY * min(taken):
        return None
    return min(taken), max(taken)


def notes(entries: Sequence[Entry]) -> list[str]:
    """Return in what the runs differ besides their settings, a sentence each."""
    reports = [entry.report for entry in entries]
    found = []

    def several(of: Key) -> bool:
        return len({of(report) for report in reports}) > 1

    if failed := [entry.name for entry in entries if entry.report.validation.failed]:
        found.append(f"{', '.join(failed)} failed validation: never marked as the best")
    if several(_model_key):
        what = "models" if several(lambda report: report.model.name) else "weights or input sizes"
        found.append(f"{what} differ: compare each with its own float network")
    if any(not report.validation.top1 for report in reports):
        found.append(
            "without labeled images, agreement with float is of each run's own calibration images: no best is marked"
        )
    elif several(data_key):
        found.append(f"accuracy was measured on different data ({_each(entries, _data_words)}): no best is marked")
    if several(machine_key) and not several(lambda report: report.machine.cpu):
        found.append(
            f"latency was measured with different numbers of threads ({_each(entries, _thread_words)}): no "
            "best is marked"
        )
    elif several(machine_key):
        found.append(
            f"latency was measured on different machines ({_each(entries, _machine_words)}): no best is marked"
        )
    if apart := unsteady(reports):
        found.append(
            f"the same float network took {number_text(apart[0])} to {latency_text(apart[1])}: the machine was not "
            "equally busy, no best latency is marked; times as fast were measured in turns"
        )
    for library in ("onnxruntime", "torch", "ptq"):
        if several(version := _version(library)):
            found.append(f"versions of {library} differ ({_each(entries, version)})")
    return found


def _model_key(report: Report) -> Hashable:
    return report.model.name, report.model.sha256, report.model.preprocess


def _version(library: str) -> Callable[[Report], str]:
    return lambda report: str(report.versions.get(library))


def _data_words(report: Report) -> str:
    return f"{report.validation.validated_on} images of {report.settings.evaluation.data}"


def _machine_words(report: Report) -> str:
    return ", ".join(filter(None, (report.machine.cpu, _thread_words(report))))


def _thread_words(report: Report) -> str:
    return thread_text(report.validation.latency_ms.get("threads"))


def _each(entries: Sequence[Entry], words: Callable[[Report], str]) -> str:
    return "; ".join(f"{entry.name}: {words(entry.report)}" for entry in entries)
