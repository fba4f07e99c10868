"""What is known of a network that learned from others: distilled.json for programs and report.md for people."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ptq.config.distilled_run import FACTS
from ptq.distillation.results import DistillResult
from ptq.reporting.advice import Step
from ptq.reporting.facts import RunFacts, write_facts
from ptq.reporting.rendering import render
from ptq.reporting.tables import Table
from ptq.reporting.text import image_lines, repeating_command, stage_table
from ptq.utils.files import atomic
from ptq.utils.units import duration_text, file_size_text, latency_text, number_text, percent_text

__all__ = ["DistillFacts", "distillation_lines", "distillation_page", "next_steps", "write_distillation"]


@dataclass(frozen=True)
class DistillFacts(RunFacts):
    """A network that learned, and how: what every kind of run knows, where the model is the student, and of distillation:

    Args:
        distillation: how it went.
        teacher_top1: name of a teacher -> its accuracy in percent; empty without labeled images.
    """

    file = FACTS
    distillation: DistillResult
    teacher_top1: dict[str, float]


def distillation_lines(facts: DistillFacts) -> list[str]:
    """Return what came of distillation, a line each."""
    found, measured = facts.distillation, facts.validation
    file = facts.settings.distillation.student_weights
    began = "random weights" if file is None else Path(file).name
    lines = []
    if "onnx" in measured.top1:
        teachers = ", ".join(f"{name} {percent_text(value)}" for name, value in facts.teacher_top1.items())
        lines.append(f"top-1: student {percent_text(measured.top1['onnx'])}, {teachers}")
    if found.last.agreement is not None:
        lines.append(
            f"predictions that are the teachers': {percent_text(found.last.agreement, 1)} on the images themselves"
        )
    lines.append(
        f"{len(found.epochs)} epochs of {found.images} images from {began}, {duration_text(found.seconds)}: loss "
        f"{number_text(found.epochs[0].loss, 3)} after the first, {number_text(found.last.loss, 3)} after the last"
    )
    for name, share in found.recognized.items():
        lines.append(f"{name} recognizes {percent_text(share, 1)} of the images as what they were made to show")
    lines.append(
        f"latency {latency_text(measured.latency_ms['onnx'])}, size {file_size_text(measured.size_bytes['onnx'])}"
    )
    return lines


def distillation_page(facts: DistillFacts, folder: Path) -> str:
    """Return the facts as a Markdown page.

    Args:
        facts: of the run.
        folder: the run directory, for what comes next.
    """
    judged = any(epoch.accuracy is not None for epoch in facts.distillation.epochs)
    rows = [
        (
            str(epoch.number),
            number_text(epoch.loss, 3),
            percent_text(epoch.agreement, 1),
            *((percent_text(epoch.accuracy),) if judged and epoch.accuracy is not None else ()),
        )
        for epoch in facts.distillation.epochs
        if epoch.agreement is not None
    ]
    content = {
        "title": f"{facts.model.name}, distilled from {', '.join(facts.distillation.teachers)}",
        "lines": distillation_lines(facts),
        "steps": next_steps(folder),
        "command": repeating_command("distill", folder),
        "curve": Table("", ("epoch", "loss", "agreement", *(("top-1",) if judged else ())), rows).markdown(),
        "image_lines": image_lines(facts.images),
        "stages": stage_table(facts.seconds),
    }
    return render("distilled.md.j2", content)


def next_steps(folder: Path) -> list[Step]:
    """Return what to do with a student, the most useful first."""
    return [
        Step(
            "Quantize the student, with the images that it learned from.",
            shlex.join(["ptq", "quantize", "--from", str(folder), "--bits", "8"]),
        )
    ]


def write_distillation(facts: DistillFacts, folder: Path) -> None:
    """Write distilled.json and report.md into a run directory, each atomically."""
    write_facts(facts, folder)
    with atomic(folder / "report.md") as path:
        path.write_text(distillation_page(facts, folder))
