"""A comparison on the terminal and in files."""

import csv
import importlib.util
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from ptq.errors import InputError, MachineError
from ptq.reporting.comparison import Comparison, compare
from ptq.reporting.comparison_files import print_comparison, write_comparison
from tests.helpers.pages import Page
from tests.helpers.reports import check
from tests.reporting.html.test_page import HOSTILE
from tests.reporting.test_comparison import write as run


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    """Two runs, the second one better in everything but size."""
    better = {"top1__onnx": 88.0, "latency_ms__onnx": 3.0, "size_bytes__onnx": 700_000}
    return compare([run(tmp_path / "a"), run(tmp_path / "b[red]", **better)])


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_shows_every_figure(found: Comparison, width: int) -> None:
    screen = io.StringIO()
    print_comparison(found, Console(file=screen, width=width))
    text = screen.getvalue()
    assert "88.00*" in text and "87.75 " in text and "0.60*" in text and "b[red]" in text
    assert max(map(len, text.splitlines())) <= width


def test_markdown_has_a_table_and_a_chart_beside_it(found: Comparison, tmp_path: Path) -> None:
    wrote = write_comparison(found, tmp_path / "out" / "runs.md")
    assert [path.name for path in wrote] == ["runs.md", "runs.svg"]
    text = wrote[0].read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1
    assert "**88.00**" in text and "](<runs.svg>)" in text
    ElementTree.parse(wrote[1])


def test_csv_holds_the_numbers_themselves(found: Comparison, tmp_path: Path) -> None:
    (path,) = write_comparison(found, tmp_path / "runs.csv")
    one, other = csv.DictReader(path.read_text().splitlines())
    assert (one["run"], one["model"]) == ("a", "tinynet")
    assert float(other["top-1 %"]) == 88.0 and float(one["size MB"]) == 0.6
    assert float(one["over float"]) == pytest.approx(-0.5)


def test_html_marks_the_best_and_has_charts(found: Comparison, tmp_path: Path) -> None:
    (path,) = write_comparison(found, tmp_path / "runs.HTML")
    shown = Page(path.read_text())
    assert len(shown.of("svg")) == 2 and "88.00 (best)" in shown.text
    assert len(shown.of("tr")) == 3 and all("scope" in head for head in shown.of("th"))


def test_html_shows_which_run_failed(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", gates=[check("one", "slow.")])]
    (path,) = write_comparison(compare(folders), tmp_path / "runs.html")
    marks = [a["class"] for a in Page(path.read_text()).of("span") if "mark" in a["class"]]
    assert marks == ["mark passed", "mark failed"]


def test_names_stay_text(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(i), model__name=HOSTILE + str(i)) for i in range(2)]
    (path,) = write_comparison(compare(folders), tmp_path / "runs.html")
    shown = Page(path.read_text())
    assert not {"script", "img"} & dict(shown.elements).keys() and HOSTILE in shown.text


def test_without_labels_agreement_is_drawn(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(i), top1={}) for i in range(2)]
    (path,) = write_comparison(compare(folders), tmp_path / "runs.html")
    assert "same as float % over size MB" in path.read_text()


def test_without_figures_there_is_no_chart(tmp_path: Path) -> None:
    bare = compare([run(tmp_path / "a", top1={}, agreement={}, latency_ms={}, size_bytes={})])
    assert [path.name for path in write_comparison(bare, tmp_path / "runs.md")] == ["runs.md"]
    assert not Page(write_comparison(bare, tmp_path / "runs.html")[0].read_text()).of("svg")


@pytest.mark.parametrize("name", ["runs", "runs.pdf", "folder.md"])
def test_what_cannot_be_written_is_one_message(found: Comparison, name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(InputError):
        write_comparison(found, tmp_path / name)


def test_without_matplotlib_tables_are_written(
    found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    assert [path.name for path in write_comparison(found, tmp_path / "runs.md")] == ["runs.md"]
    with pytest.raises(MachineError):
        write_comparison(found, tmp_path / "runs.html")
