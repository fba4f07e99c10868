"""An HTML page as it is read: its elements, and its text without markup."""

from html.parser import HTMLParser

__all__ = ["Page"]

LINES = {"h1", "h2", "h3", "p", "li", "tr", "dt", "dd", "pre", "figcaption", "caption", "title", "nav"}
"""Elements that begin a line of their own."""


class Page(HTMLParser):
    """The elements and the text of a page.

    Attributes:
        elements: name and attributes of each, in order.
        text: all that is read, without styles.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = "", list[str]()
        self._lines = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)
        self._lines += "\n" if tag in LINES else " | " if tag in ("td", "th") else " "

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:  # elements without an end
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
            self._lines += "" if "svg" in self._open else " ".join(data.split(" ")).replace("\n", " ")

    def of(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements of that name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def lines(self) -> str:
        """Return what is read, a line for each paragraph and each row; without what stands in drawings."""
        lines = (" ".join(line.split()) for line in self._lines.splitlines())
        return "\n".join(line for line in lines if line) + "\n"
