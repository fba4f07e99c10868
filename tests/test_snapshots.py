"""Every page, word for word, of one made-up run: other tests assert kinds and numbers."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ptq.calibration import CalibrationSet
from ptq.cli.commands import app
from ptq.cli.estimate_page import print_estimate
from ptq.cli.run_page import report_lines
from ptq.reporting.comparison import compare
from ptq.reporting.comparison_files import print_comparison, write_comparison
from ptq.reporting.html.page import page
from ptq.reporting.inspection_page import markdown as inspection_markdown, print_inspection
from ptq.reporting.report_files import markdown, write_report
from tests.helpers.inspections import made_up_estimate, made_up_inspection
from tests.helpers.pages import Page
from tests.helpers.reports import check, made_up, pruned
from tests.helpers.snapshots import assert_snapshot

WIDTH = 100


def console() -> Console:
    """A terminal that is a string."""
    return Console(file=io.StringIO(), width=WIDTH)


def shown(screen: Console) -> str:
    """What was printed; spaces at the ends of lines cannot be seen."""
    assert isinstance(screen.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in screen.file.getvalue().splitlines())


def test_report() -> None:
    assert_snapshot("report.md", markdown(made_up()))


def test_report_of_a_pruned_run() -> None:
    assert_snapshot("report_pruned.md", markdown(pruned()))
    assert_snapshot("report_pruned_html.txt", Page(page(pruned())).lines())
    assert_snapshot("run_pruned.txt", "\n".join(report_lines(pruned())) + "\n")


def test_report_of_a_run_that_failed() -> None:
    failed = check("not slower than the float network", "the file is slower than the float network.")
    changes: dict[str, Any] = {
        "gates": [check("first check"), failed],
        "top1": {},
        "images__quality": None,
        "exact": None,
    }
    assert_snapshot("report_failed.md", markdown(made_up(**changes)))


def test_html_report(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    CalibrationSet.from_pixels(pixels, torch.tensor([3, 7])).save(tmp_path / "images.safetensors")
    text = Page(page(made_up(), tmp_path)).lines()
    assert_snapshot("report_html.txt", text.replace(str(tmp_path), "runs/tinynet-w4a8"))


def test_finished_run() -> None:
    assert_snapshot("run.txt", "\n".join(report_lines(made_up())) + "\n")


def test_comparison(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    write_report(made_up(), folders[0])
    smaller = {"top1__onnx": 80.0, "size_bytes__onnx": 500_000, "versions__torch": "2.9.0"}
    write_report(made_up(machine__cpu="Another CPU", **smaller), folders[1])
    write_report(made_up(gates=[check("one", "it is wrong.")]), folders[2])
    found = compare(folders)
    assert_snapshot("comparison.md", write_comparison(found, tmp_path / "runs.md")[0].read_text())
    screen = console()
    print_comparison(found, screen)
    assert_snapshot("comparison.txt", shown(screen))


def test_inspection() -> None:
    assert_snapshot("inspection.md", inspection_markdown(made_up_inspection()))
    screen = console()
    print_inspection(made_up_inspection(), 1, screen)
    assert_snapshot("inspection.txt", shown(screen))


def test_estimate() -> None:
    screen = console()
    print_estimate(made_up_estimate(), screen)
    assert_snapshot("estimate.txt", shown(screen))


@pytest.mark.parametrize(
    "command", ["", "quantize", "prune", "distill", "synthesize", "validate", "inspect", "report", "compare"]
)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", str(WIDTH))
    result = CliRunner().invoke(app, [*filter(None, [command]), "--help"], prog_name="ptq", env={"COLUMNS": str(WIDTH)})
    assert result.exit_code == 0
    # Frames belong to the library and change with it; words are ours.
    words = re.sub(r"[│╭╮╰╯─]", " ", result.output)
    lines = (" ".join(line.split()) for line in words.splitlines())
    assert_snapshot(f"help{command and '_'}{command}.txt", "".join(f"{line}\n" for line in lines if line))
