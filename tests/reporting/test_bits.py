"""What reports say of bits that were chosen for a budget, and what they advise where none was given."""

from pathlib import Path
from typing import Any

from ptq.config.flat_options import make_settings
from ptq.reporting.advice import next_steps
from ptq.reporting.bits import frontier_table
from ptq.reporting.html.page import page
from ptq.reporting.report import Report
from ptq.reporting.report_files import markdown
from tests.helpers.pages import Page
from tests.helpers.reports import made_up


def point(size: int, harm: float) -> dict[str, Any]:
    return {"size": size, "harm": harm, "bits": {"stem": 8, "conv1": 2, "conv2": 4}}


def with_budget() -> Report:
    found = {
        **{"bits": {"stem": 8, "conv1": 2, "conv2": 4}, "size": 599_950, "predicted": 0.0125, "measured": 0.015},
        **{"loss": 0.1, "rounds": 2, "frontier": [point(400_000, 0.5), point(599_950, 0.0125), point(800_000, 0.0)]},
    }
    return made_up(allocation=found, settings=make_settings("tinynet", max_size="600kB").to_json())


def test_pages_show_the_choice_and_what_other_sizes_hold(tmp_path: Path) -> None:
    report = with_budget()
    assert Report.from_json(report.to_json()) == report
    for text in (markdown(report), Page(page(report, None)).text):
        assert "1.25 %" in text and "1.5 %" in text and "2 bits in 1 layer" in text
    plain, shown = Page(page(made_up(), None)), Page(page(report, None))
    assert len(shown.of("svg")) == len(plain.of("svg")) + 2
    assert report.allocation is not None and len(frontier_table(report.allocation.frontier).rows) == 3


def test_a_uniform_run_names_the_command_for_mixed_bits_of_the_same_size() -> None:
    commands = [step.command for step in next_steps(made_up(top1__onnx=80.0), "run") if step.command]
    assert any("--max-size 600000B" in command for command in commands)
    harms = {"harm": 0.1, "loss": 0.2, "mixed_loss": 0.15, "bits": {"stem": 8}, "images": 8, "size": 600_000}
    for mixed, advised in ((0.05, True), (0.1, False)):
        compared = made_up(top1__onnx=80.0, alternative={**harms, "mixed_harm": mixed})
        assert Report.from_json(compared.to_json()) == compared
        assert any("-mixed" in (step.command or "") for step in next_steps(compared, "run")) is advised
    assert not any("-mixed" in (step.command or "") for step in next_steps(with_budget(), "run"))
