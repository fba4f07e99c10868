"""Reports: what a run measured, readable by programs and people."""

import json
from pathlib import Path

import pytest

from ptq.errors import PtqError
from ptq.reporting.report import markdown, read_report, write_report
from tests.helpers.reports import made_up


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_the_page_holds_every_figure() -> None:
    page = markdown(made_up())
    table = rows(page)
    assert page.startswith("# tinynet, weights 4 bits, activations 8 bits\n")
    assert ["top-1 (%)", "88.25", "87.50", "87.75"] in table
    assert ["same prediction as float (%)", "", "98.00", "97.50"] in table
    assert ["latency (ms, 2 threads)", "12.35", "", "4.50"] in table
    assert ["size (MB)", "4.00", "", "0.60"] in table
    assert ["stem", "8", "41.3", "41.3", "skipped", "0.1"] in table
    assert ["conv2", "4", "12.3", "18.9", "learned", "3.2"] in table
    assert ["reconstruct", "12.0"] in table
    for text in (
        "- accuracy: 0.50 points lost",
        "/model.onnx",
        "- second note",
        "- 64 images: mixmix from tinynet",
        "- peak memory: 3.00 GiB",
        "- peak of cached activations: 5.00 MiB in memory, 1.50 MiB on disk",
        "ptq quantize --model tinynet",
        "seed 7",
        "torch 2",
    ):
        assert text in page


def test_a_failed_gate_stands_above_the_figures() -> None:
    page = markdown(made_up() | {"gates": [{}], "failed": ["it is wrong."]})
    assert page.index("failed 1 of 1 gates") < page.index("- it is wrong.") < page.index("top-1")


def test_tables_are_rectangular() -> None:
    for paragraph in markdown(made_up()).split("\n\n"):
        if paragraph.startswith("|"):
            assert len({len(row) for row in rows(paragraph)}) == 1


def test_what_was_not_measured_is_left_blank() -> None:
    report = made_up() | {"top1": {}, "agreement": {"onnx": None}, "latency_ms": {}, "size_bytes": {}}
    table = rows(markdown(report))
    assert ["top-1 (%)", "", "", ""] in table
    assert ["same prediction as float (%)", "", "", ""] in table


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    report = made_up()
    write_report(report, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    assert (tmp_path / "run" / "report.md").read_text() == markdown(report)
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_report(made_up(), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_report(made_up() | {"seed": object()}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    (tmp_path / "file").write_text("")
    with pytest.raises(PtqError, match="cannot write"):
        write_report(made_up(), tmp_path / "file")


def test_numbers_stand_in_rows_and_text_is_left_alone(tmp_path: Path) -> None:
    text = "[\n  1,\n  2\n]"
    report = made_up() | {"curves": [[1, 2.5, -3e-7], []], "notes": [text, "[ 1,  2 ]"], "none": [None]}
    write_report(report, tmp_path)
    assert "[1, 2.5, -3e-07]" in (tmp_path / "report.json").read_text()
    assert read_report(tmp_path) == report


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model": 1}',
        '{"model": {"sha256": ""}}',
        '{"model": "a", "settings": {}}',
    ],
)
def test_what_is_no_report_is_one_message(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(PtqError, match=r"no readable report\.json: .* run ptq quantize again"):
        read_report(tmp_path)
