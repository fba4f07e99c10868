"""What is known of a network that learned from others: distilled.json for programs and report.md for people."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptq.config.distilled_run import FACTS
from ptq.distillation.results import DistillResult
from ptq.export.results import Validation
from ptq.reporting.rendering import render
from ptq.reporting.report import ImageFacts
from ptq.reporting.tables import Table
from ptq.reporting.text import image_lines
from ptq.utils.files import atomic
from ptq.utils.units import duration_text, file_size_text, latency_text, number_text, percent_text

__all__ = ["DistillFacts", "distillation_lines", "distillation_page", "write_distillation"]


@dataclass(frozen=True)
class DistillFacts:
    """A network that learned, and how.

    Args:
        student: what `ptq.load_model` calls it.
        size: (height, width) of its input in pixels.
        weights: file that it began with; None is random weights.
        teacher: what `ptq.load_model` calls the first teacher.
        settings: of the run.
        distillation: how it went.
        teacher_top1: name of a teacher -> its accuracy in percent; empty without labeled images.
        images: that it learned from.
        validation: of the file; "float" in it is the student in PyTorch.
        seconds: stage -> how long it took.
        environment: machine and versions.
    """

    student: str
    size: tuple[int, int]
    weights: str | None
    teacher: str
    settings: Mapping[str, Any]
    distillation: DistillResult
    teacher_top1: Mapping[str, float]
    images: ImageFacts
    validation: Validation
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        parts = {name: asdict(self)[name] for name in ("student", "size", "weights", "teacher", "settings")}
        return {
            **parts,
            "distillation": self.distillation.to_json(),
            "teacher_top1": dict(self.teacher_top1),
            "images": self.images.to_json(),
            **self.validation.to_json(),
            "seconds": dict(self.seconds),
            **self.environment,
        }


def distillation_lines(facts: DistillFacts) -> list[str]:
    """Return what came of distillation, a line each."""
    found, measured = facts.distillation, facts.validation
    began = "random weights" if facts.weights is None else Path(facts.weights).name
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
    stages = [(name, number_text(seconds, 1)) for name, seconds in facts.seconds.items()]
    content = {
        "title": f"{facts.student}, distilled from {', '.join(facts.distillation.teachers)}",
        "lines": distillation_lines(facts),
        "next": shlex.join(["ptq", "quantize", "--from", str(folder), "--bits", "8"]),
        "curve": Table("", ("epoch", "loss", "agreement", *(("top-1",) if judged else ())), rows).markdown(),
        "image_lines": image_lines(facts.images),
        "stages": Table("", ("stage", "seconds"), stages).markdown(),
    }
    return render("distilled.md.j2", content)


def write_distillation(facts: DistillFacts, folder: Path) -> None:
    """Write distilled.json and report.md into a run directory, each atomically."""
    with atomic(folder / FACTS) as path:
        path.write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    with atomic(folder / "report.md") as path:
        path.write_text(distillation_page(facts, folder))
