"""What is known of a network that was pruned alone: pruned.json for programs and report.md for people."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ptq.pruning.results import PruneResult
from ptq.reporting.advice import Step, file_badge
from ptq.reporting.facts import RunFacts, write_facts
from ptq.reporting.pruning_text import channel_table, cost_rows, pruning_lines, repair_table
from ptq.reporting.rendering import render
from ptq.reporting.tables import Table
from ptq.reporting.text import FLOAT_COLUMNS, figure_rows, image_lines, repeating_command, stage_table
from ptq.utils.files import atomic

__all__ = ["PruneFacts", "next_steps", "pruning_page", "write_pruning"]


@dataclass(frozen=True)
class PruneFacts(RunFacts):
    """A pruned float network: what every kind of run knows, where "float" is the network before and "onnx" the file, and of pruning:

    Args:
        pruning: what was removed, and what it left.
    """

    file = "pruned.json"
    pruning: PruneResult


def next_steps(facts: PruneFacts, folder: Path) -> list[Step]:
    """Return what to do with a pruned network, the most useful first."""
    seen, images = facts.model.preprocess, str(folder / "images.safetensors")
    if "," in seen.channels:  # several inputs; a file that ptq reads takes one image
        command = ["ptq", "quantize", "--config", str(folder / "recipe.toml"), "--bits", "8", "--images", images]
        command += ["--out", f"{folder}-w8a8"]
        return [Step("Prune again in the same way, and quantize what is left.", shlex.join(command))]
    mean, std = (",".join(f"{value:.6g}" for value in values) for values in (seen.mean, seen.std))
    command = ["ptq", "quantize", "--model", str(folder / "pruned.onnx"), "--bits", "8", "--mean", mean, "--std", std]
    command += [] if seen.channels == "RGB" else ["--channels", seen.channels]
    command += [] if facts.settings.model.task == "auto" else ["--task", facts.settings.model.task]
    command += ["--images", images]
    return [Step("Quantize what is left, with the same images.", shlex.join(command))]


def pruning_page(facts: PruneFacts, folder: Path) -> str:
    """Return the facts as a Markdown page.

    Args:
        facts: of the run.
        folder: the run directory, for what comes next.
    """
    figures = [*figure_rows(facts.validation, FLOAT_COLUMNS), *cost_rows(facts.pruning, FLOAT_COLUMNS)]
    content = {
        "title": f"{facts.model.name}, pruned",
        "badge": file_badge(facts.validation),
        "failures": facts.validation.failed,
        "figures": Table("", ("", *FLOAT_COLUMNS), [row for row in figures if any(row[1:])]).markdown(),
        "steps": next_steps(facts, folder),
        "pruning_lines": pruning_lines(facts.pruning),
        "repair": repair_table(facts.pruning),
        "channels": channel_table(facts.pruning),
        "image_lines": image_lines(facts.images),
        "stages": stage_table(facts.seconds),
        "command": repeating_command("prune", folder),
    }
    return render("pruned.md.j2", content)


def write_pruning(facts: PruneFacts, folder: Path) -> None:
    """Write pruned.json and report.md into a run directory, each atomically."""
    write_facts(facts, folder)
    with atomic(folder / "report.md") as path:
        path.write_text(pruning_page(facts, folder))
