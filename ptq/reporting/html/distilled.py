"""What stands in the page of a network that learned from others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq.export.results import Validation
from ptq.reporting.advice import file_badge
from ptq.reporting.distillation_report import DistillFacts, distillation_lines, next_steps
from ptq.reporting.html import plots
from ptq.reporting.html.parts import Chart, card, cost_cards, figure_part, image_part, settings_part, time_part
from ptq.reporting.text import FLOAT_COLUMNS, image_lines, repeating_command
from ptq.utils.units import percent_text

__all__ = ["content"]


def content(facts: DistillFacts, folder: Path | None) -> dict[str, Any]:
    """Return what `distilled.html.j2` shows.

    Args:
        facts: of the run.
        folder: the run directory; None leaves the images out.
    """
    where = folder or Path(facts.settings.output.folder)
    return {
        "title": f"{facts.model.name}, distilled",
        "subtitle": f"from {', '.join(facts.distillation.teachers)}; {image_lines(facts.images)[0]}",
        "badges": [file_badge(facts.validation)],
        "cards": [*_cards(facts), *cost_cards(_of_the_file(facts.validation), facts.seconds)],
        "steps": next_steps(where),
        "lines": distillation_lines(facts),
        "curves": [*_curves(facts)],
        "accuracies": bool(facts.validation.top1),
        **figure_part(facts.validation, FLOAT_COLUMNS),
        **image_part(facts.images, folder),
        **time_part(facts.seconds),
        "memory": [],
        "command": repeating_command("distill", where),
        "notes": facts.validation.unmeasured,
        **settings_part(facts),
    }


def _of_the_file(measured: Validation) -> Validation:
    """The costs of the student's file alone: in PyTorch it is the same network."""
    return replace(
        measured,
        latency_ms={name: value for name, value in measured.latency_ms.items() if name != "float"},
        size_bytes={name: value for name, value in measured.size_bytes.items() if name != "float"},
    )


def _cards(facts: DistillFacts) -> Iterator[dict[str, str]]:
    if "onnx" in facts.validation.top1:
        teachers = ", ".join(f"{name} {percent_text(value)}" for name, value in facts.teacher_top1.items())
        yield card("top-1 accuracy", percent_text(facts.validation.top1["onnx"]), teachers)
    if facts.distillation.last.agreement is not None:
        yield card(
            "predictions that are the teachers'",
            percent_text(facts.distillation.last.agreement, 1),
            "on the images as they are",
        )


def _curves(facts: DistillFacts) -> Iterator[Chart]:
    epochs = facts.distillation.epochs
    curves = {
        "loss": [(epoch.number, epoch.loss) for epoch in epochs],
        "agreement with the teachers (%)": [(e.number, e.agreement) for e in epochs if e.agreement is not None],
        "top-1 (%)": [(e.number, e.accuracy) for e in epochs if e.accuracy is not None],
    }
    for title, points in curves.items():
        if points:
            alt = f"{title} over epochs: from {points[0][1]:.3g} to {points[-1][1]:.3g}"
            yield Chart(title, alt, plots.over_epochs(points, alt))
