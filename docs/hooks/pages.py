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
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tables of `benchmarks/results` as they are, each a page under Measured."""
    for table in sorted((_root(config) / RESULTS).glob("*.md")):
        files.append(File.generated(config, f"measured/{table.name}", abs_src_path=str(table)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say below a table what its benchmark says of itself: who reads the site has not got its source."""
    if page.file.generated_by is None:
        return markdown
    source = _root(config) / BENCHMARKS / f"{Path(page.file.src_uri).stem}.py"
    told = ast.get_docstring(ast.parse(source.read_text()))
    return f"{markdown}\n\n## How it is measured\n\n{told}\n"


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
