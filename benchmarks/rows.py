"""The rows that benchmarks measure: as JSON, a row a line, beside a page that is made from them."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ptq.utils.files import atomic

__all__ = ["RESULTS", "Rows", "add_rows", "footer", "read_rows", "with_spread", "write_rows"]

RESULTS = Path(__file__).parent / "results"
Rows = list[dict[str, Any]]
Page = Callable[[Rows], Iterator[str]]


def read_rows(name: str) -> Rows:
    """The rows of results/NAME.json; none where there is no such file yet."""
    path = RESULTS / f"{name}.json"
    rows: Rows = json.loads(path.read_text()) if path.exists() else []
    return rows


def write_rows(name: str, rows: Rows, page: Page) -> None:
    """Write results/NAME.json and, from `page`, results/NAME.md."""
    with atomic(RESULTS / f"{name}.json") as path:
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    with atomic(RESULTS / f"{name}.md") as path:
        path.write_text("\n".join(page(rows)) + "\n")


def add_rows(name: str, new: Rows, keys: Sequence[str], page: Page) -> None:
    """Put new rows in the place of those that agree with them in `keys`, and make the page anew."""
    replaced = {tuple(row[k] for k in keys) for row in new}
    rows = [r for r in read_rows(name) if tuple(r[k] for k in keys) not in replaced] + new
    rows.sort(key=lambda r: tuple(str(r[k]) for k in keys))
    write_rows(name, rows, page)


def with_spread(values: Sequence[float], unit: str = "") -> str:
    """The mean of what several seeds gave, and the lowest to the highest.

    Example:
        >>> with_spread([81.0, 80.0]), with_spread([80.0], " %")
        ('80.50 (80.00 to 81.00)', '80.00 % (one seed)')
    """
    spread = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "one seed"
    return f"{statistics.mean(values):.2f}{unit} ({spread})"


def footer(rows: Rows, note: str = "") -> str:
    """The last line of a page: machines, a note about them, and the versions of the last row."""
    machines = "; ".join(sorted({row["machine"]["cpu"] for row in rows}))
    versions = ", ".join(f"{k} {v}" for k, v in (rows[-1]["versions"] if rows else {}).items())
    return f"\n{machines}{note}; {versions}"
