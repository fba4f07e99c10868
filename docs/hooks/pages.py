"""What mkdocs does besides: formulas become MathML, and the measured tables become pages."""

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path("benchmarks/results")
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tables of `benchmarks/results` as they are, each a page under Measured."""
    root = Path(config.config_file_path).parent
    for table in sorted((root / RESULTS).glob("*.md")):
        files.append(File.generated(config, f"measured/{table.name}", abs_src_path=str(table)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw by themselves."""
    html = _INLINE.sub(lambda found: convert(unescape(found[1])), html)
    return _BLOCK.sub(lambda found: f'<div class="formula">{_display(found[1])}</div>', html)


def _display(formula: str) -> str:
    return convert(unescape(formula), display="block")
