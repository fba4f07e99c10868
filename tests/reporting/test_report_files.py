"""report.json and report.md: written whole, read or refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ptq.errors import InputError, MachineError
from ptq.reporting.report_files import markdown, read_report, write_report
from tests.helpers.reports import check, made_up


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_a_failed_check_stands_above_the_figures() -> None:
    page = markdown(made_up(gates=[check("one", "it is wrong.")]))
    assert page.index("1 of 1 checks") < page.index("- it is wrong.") < page.index("top-1")


def test_tables_are_rectangular() -> None:
    for paragraph in markdown(made_up()).split("\n\n"):
        if paragraph.startswith("|"):
            assert len({len(row) for row in rows(paragraph)}) == 1


def test_what_was_not_measured_is_left_blank() -> None:
    table = rows(markdown(made_up(top1={}, agreement={}, latency_ms={}, size_bytes={})))
    assert all(row[1:] == ["", "", ""] for row in table[2:6])


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    report = made_up()
    write_report(report, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    assert (tmp_path / "run" / "report.md").read_text() == markdown(report)
    assert len(list((tmp_path / "run").iterdir())) == 2
    assert read_report(tmp_path / "run") == report


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_report(made_up(), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_report(replace(made_up(), command=object()), tmp_path)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        write_report(made_up(), tmp_path / "file")


def test_numbers_stand_in_rows_and_text_is_left_alone(tmp_path: Path) -> None:
    report = made_up(notes=["[\n  1,\n  2\n]", "[ 1,  2 ]"])
    write_report(report, tmp_path)
    assert "[1.0, 0.5, 0.25]" in (tmp_path / "report.json").read_text()
    assert read_report(tmp_path) == report


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "[" * 100_000, "\udcff", '{"version": 1}', "9" * 5000])
def test_what_is_no_report_is_one_message(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=tmp_path.name) as caught:
        read_report(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
