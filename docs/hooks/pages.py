"""What mkdocs does besides: formulas become MathML, measured tables become pages, and search works from a disk."""

import ast
import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

BENCHMARKS = Path("benchmarks")
RESULTS = BENCHMARKS / "results"
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_TABLE = re.compile(r"^\[The whole table\]\(\.\./\.\./benchmarks/results/\w+\.md\)$", re.MULTILINE)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make every table of `benchmarks/results` a page under Measured, unless docs/measured/ has words on it."""
    for table in sorted((_root(config) / RESULTS).glob("*.md")):
        if files.get_file_from_path(f"measured/{table.name}") is None:
            files.append(File.generated(config, f"measured/{table.name}", abs_src_path=str(table)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put a measured table in the place of the link to it, and below it what its benchmark says of itself.

    Who reads the site has not got the sources.
    """
    name = Path(page.file.src_uri).name
    table, source = _root(config) / RESULTS / name, (_root(config) / BENCHMARKS / name).with_suffix(".py")
    if not (page.file.src_uri.startswith("measured/") and table.exists()):
        return markdown
    page.meta["hide"] = ["toc"]  # wide tables take its room
    _, _, body = table.read_text().partition("\n")  # without its title
    whole = "## The whole table\n" + re.sub(r"^##", "###", body, flags=re.MULTILINE)
    told = ast.get_docstring(ast.parse(source.read_text()))
    return f"{_TABLE.sub(lambda _: whole, markdown)}\n\n## How it is measured\n\n{told}\n"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw by themselves; leave a table of one heading's room to the page."""
    if sum(len(heading.children) for heading in page.toc) <= 1:
        page.meta["hide"] = ["toc"]
    html = _INLINE.sub(lambda found: convert(unescape(found[1])), html)
    return _BLOCK.sub(lambda found: f'<div class="formula">{_display(found[1])}</div>', html)


@event_priority(-100)  # after the plugin that writes the index
def on_post_build(config: MkDocsConfig) -> None:
    """Write the index of the search as a script besides: a page from a disk may run it, and not fetch the other."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text()
    (folder / "search_index.js").write_text(f"var __index = {index}")


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _display(formula: str) -> str:
    """Formulas beside each other, each by itself: on a narrow screen they stand below each other."""
    return "".join(convert(part, display="block") for part in unescape(formula).split(r"\qquad"))
