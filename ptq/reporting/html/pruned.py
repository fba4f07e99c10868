"""What stands in the page of a pruned network."""

from pathlib import Path
from typing import Any

from ptq.reporting.advice import file_badge
from ptq.reporting.html.parts import (
    accuracy_cards,
    card,
    cost_cards,
    figure_part,
    image_part,
    pruning_part,
    settings_part,
    time_part,
)
from ptq.reporting.pruning_report import PruneFacts, next_steps
from ptq.reporting.pruning_text import pruning_lines
from ptq.reporting.text import FLOAT_COLUMNS, image_lines, repeating_command
from ptq.utils.units import count_text, ratio_text

__all__ = ["content"]


def content(facts: PruneFacts, folder: Path | None) -> dict[str, Any]:
    """Return what `pruned.html.j2` shows.

    Args:
        facts: of the run.
        folder: the run directory; None leaves the images out.
    """
    before, after = facts.pruning.macs
    saved = card(
        "multiply-accumulates",
        f"{ratio_text(before, max(after, 1))} fewer",
        f"{count_text(before)} before, {count_text(after)} after",
    )
    where = folder or Path(facts.settings.output.folder)
    return {
        "title": f"{facts.model.name}, pruned",
        "subtitle": "; ".join([*pruning_lines(facts.pruning)[:2], image_lines(facts.images)[0]]),
        "badges": [file_badge(facts.validation)],
        "cards": [*accuracy_cards(facts.validation), saved, *cost_cards(facts.validation, facts.seconds)],
        "steps": next_steps(facts, where),
        **figure_part(facts.validation, FLOAT_COLUMNS, facts.pruning),
        **image_part(facts.images, folder),
        **pruning_part(facts.pruning),
        **time_part(facts.seconds),
        "memory": [],
        "command": repeating_command("prune", where),
        "notes": facts.validation.unmeasured,
        **settings_part(facts),
    }
