"""One table, on a page and on terminals of any width."""

import io

import pytest
from rich.console import Console

from ptq.reporting.tables import Table

TABLE = Table("Some", ("name", "cost before"), [("a_rather_long_name_of_a_layer", "0.1234"), ("b", "2")])


def test_markdown_is_rectangular() -> None:
    title, empty, *rows = TABLE.markdown().splitlines()
    assert (title, empty) == ("## Some", "")
    assert rows[0] == "| name | cost before |"
    assert {row.count("|") for row in rows} == {3}


@pytest.mark.parametrize("width", [20, 80])
def test_names_are_folded_and_numbers_never(width: int) -> None:
    screen = io.StringIO()
    Console(file=screen, width=width).print(TABLE.drawn())
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in screen.getvalue()
    assert any("0.1234" in line for line in lines)
    name = "".join(line[: width - 8].split(" ")[0] for line in lines if "a_" in line or "_" in line)
    assert "a_rather_lon" in name
