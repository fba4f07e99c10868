"""What a run measured, as report.json for programs and report.md for people."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq.errors import InputError
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.text import exactness_lines, figure_columns, figure_rows, image_lines, memory_lines
from ptq.utils.files import atomic

__all__ = ["markdown", "read_report", "write_report"]


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.json and report.md into `folder`, each atomically."""
    with atomic(folder / "report.json") as path:
        path.write_text(_rows_of_numbers(json.dumps(report, indent=2)) + "\n")
    with atomic(folder / "report.md") as path:
        path.write_text(markdown(report))


def read_report(folder: Path) -> dict[str, Any]:
    """Return the content of a run's report.json.

    Raises:
        InputError: where there is none, or something else.
    """
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        markdown(report | {"model": {**report["model"], "sha256": report["model"]["sha256"]}})
    except Exception as error:  # JSON that is not ours may hold anything anywhere
        raise InputError(
            f"{folder} has no readable report.json: give the directory of a finished run, or run ptq quantize again."
        ) from error
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """Return a report as a Markdown page."""
    settings, columns = report["settings"], figure_columns(report)
    lines = [
        f"# {report['model']['name']}, weights {settings['bits']} bits, activations {settings['act_bits']} bits",
        "",
        *[f"- {badge.text}" for badge in badges(report)],
        *[f"- {line}" for line in report.get("failed", ())],
        "",
        *_table(("", *columns), figure_rows(report, columns)),
        "",
        "## What next",
        "",
        *[
            f"- {step.text}" + (f" `{step.command}`" if step.command else "")
            for step in next_steps(report, settings.get("out") or "RUN_DIR")
        ],
        "",
        "## Bits",
        "",
        *[f"- {note}" for note in (*report["notes"], *report.get("unmeasured", ()))],
        *[f"- {line}" for line in exactness_lines(report.get("exact"))],
        "",
        "## Images",
        "",
        *[f"- {line}" for line in image_lines(report["images"])],
        "",
        "## Blocks",
        "",
        "SQNR of a block's output against the float network, in dB on the calibration images.",
        "",
        *_table(
            ("block", "bits", "nearest", "kept", "", "seconds"),
            [
                (
                    block["name"],
                    ", ".join(sorted({str(report["bits"][n]) for n in block["layers"] if n in report["bits"]})),
                    f"{block['sqnr_nearest']:.1f}",
                    f"{block['sqnr']:.1f}",
                    block["kept"],
                    f"{block['seconds']:.1f}",
                )
                for block in report["blocks"]
            ],
        ),
        "",
        "## Time and memory",
        "",
        *_table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in report["seconds"].items()]),
        "",
        *[f"- {line}" for line in memory_lines(report)],
        f"- on {report['machine']['cpu']}",
        "",
        "## To run this again",
        "",
        "```",
        report["command"],
        "```",
        "",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + f"; seed {report['seed']}.",
        "",
    ]
    return "\n".join(lines)


def _rows_of_numbers(text: str) -> str:
    """Put arrays of numbers on one line each: curves and histograms have hundreds.

    Text cannot be hit, because a line break in it is written as two characters.
    """
    return re.sub(r"\[\n\s*([-+.\w]+(?:,\n\s*[-+.\w]+)*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
