"""What is on the terminal when a run is finished: its figures, and the files in its directory."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ptq.reporting.advice import Step
from ptq.reporting.distillation_report import DistillFacts, distillation_lines, next_steps as distill_steps
from ptq.reporting.facts import KINDS, ImageFacts
from ptq.reporting.pruning_report import PruneFacts, next_steps as prune_steps
from ptq.reporting.pruning_text import pruning_lines, repair_lines
from ptq.reporting.report import Report
from ptq.reporting.report_files import read_report
from ptq.reporting.text import exactness_lines, figure_lines, image_lines, memory_lines
from ptq.utils.units import file_size_text

__all__ = ["print_distilled", "print_images", "print_pruned", "print_run", "report_lines"]


def print_images(images: ImageFacts, folder: Path) -> None:
    """Print what is known about images that were synthesized alone, and the files in their directory."""
    typer.echo("\n" + "\n".join(image_lines(images)))
    _print_files(folder)


def print_run(folder: Path) -> None:
    """Print the headline figures of a run and the paths of the files in its directory."""
    typer.echo("\n" + "\n".join(report_lines(read_report(folder))))
    _print_files(folder)


def print_pruned(facts: PruneFacts, folder: Path) -> None:
    """Print what pruning alone did and what is left, the paths of the files in its directory, and how to go on."""
    measured = facts.validation
    lines = [
        *pruning_lines(facts.pruning),
        *repair_lines(facts.pruning),
        *figure_lines(
            top1=_as_pruned(measured.top1),
            metrics={name: _as_pruned(values) for name, values in measured.metrics.items()},
            agreement=_as_pruned(measured.agreement),
            latency_ms=_as_pruned(measured.latency_ms),
            size_bytes=_as_pruned(measured.size_bytes),
        ),
    ]
    typer.echo("\n" + "\n".join(lines))
    _print_files(folder)
    _print_next(prune_steps(facts, folder))


def print_distilled(facts: DistillFacts, folder: Path) -> None:
    """Print what a network learned, the paths of the files in its directory, and how to go on."""
    typer.echo("\n" + "\n".join(distillation_lines(facts)))
    _print_files(folder)
    _print_next(distill_steps(folder))


def _as_pruned(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by name, where the file is the pruned network."""
    return {{"onnx": "pruned"}.get(name, name): value for name, value in figures.items()}


def _print_next(steps: Sequence[Step]) -> None:
    for step in steps:
        typer.echo(f"\nto go on: {step.command}")


def _print_files(folder: Path) -> None:
    typer.echo("\nthe run directory has")
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "."):
        typer.echo(f"  {path}  ({file_size_text(path.stat().st_size)})")
    if any((folder / name).is_file() for name in KINDS) and not (folder / "report.html").is_file():
        again = shlex.join(["ptq", "report", str(folder)])
        typer.echo(f"\nfor report.html: pip install 'ptq[report]', then {again}")


def report_lines(report: Report) -> list[str]:
    """Return what a terminal shows of a report: accuracy, latency, size, images and memory."""
    measured = report.validation
    return [
        *pruning_lines(report.pruning),
        *repair_lines(report.pruning),
        *figure_lines(
            top1=measured.top1,
            metrics=measured.metrics,
            agreement=measured.agreement,
            latency_ms=measured.latency_ms,
            size_bytes=measured.size_bytes,
        ),
        *exactness_lines(measured.exact),
        *image_lines(report.images),
        *memory_lines(report),
    ]
