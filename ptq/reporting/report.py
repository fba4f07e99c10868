"""What a run measured, as report.json for programs and report.md for people."""

import importlib.metadata
import json
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptq.errors import InputError
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.text import exactness_lines, figure_columns, figure_rows, image_lines, memory_lines
from ptq.utils.files import atomic

__all__ = ["Stopwatch", "environment", "markdown", "peak_rss_bytes", "read_report", "write_report"]

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors")


class Stopwatch:
    """Seconds per stage of a run.

    Example:
        >>> watch = Stopwatch()
        >>> with watch("prepare"):
        ...     pass
        >>> list(watch.seconds)
        ['prepare']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent in the with-block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - started, 3)


def peak_rss_bytes() -> int:
    """Return the largest resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict[str, Any]:
    """Return the library versions and the machine, as far as they decide results and timings."""
    versions = {"python": platform.python_version()}
    for name in ("ptq", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "machine": {"cpu": _cpu(), "system": platform.platform()}}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    wide = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
        if flag in fields.get("flags", "").split()
    ]
    return f"{fields.get('model name', platform.machine())} ({', '.join(wide)})"


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
