"""A table of text, for Markdown pages and for terminals."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as Drawn
from rich.text import Text

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """What a table says.

    Args:
        title: above it; "" for none.
        head: of each column; in a terminal every word has its own line.
        rows: as many cells each as there are columns; the first names the row.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown, under its title; what is in the cells does not end them.

        Example:
            >>> print(Table("Bits", ("layer", "bits"), [("conv1", "8")]).markdown())
            ## Bits
            <BLANKLINE>
            | layer | bits |
            | --- | ---: |
            | conv1 | 8 |
        """
        line = ("---", *["---:"] * (len(self.head) - 1))
        rows = [f"| {' | '.join(map(_in_a_cell, cells))} |" for cells in (self.head, line, *self.rows)]
        return "\n".join([*([f"## {self.title}", ""] if self.title else []), *rows])

    def drawn(self) -> Drawn:
        """Return the table for a `rich` console; where it is narrow, names are folded and no number is."""
        table = Drawn(title=self.title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        for index, title in enumerate(self.head):
            table.add_column(
                title.replace(" ", "\n"),
                justify="right" if index else "left",
                vertical="top",
                no_wrap=index > 0,
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*map(Text, row))  # as it is: names may look like markup
        return table


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
