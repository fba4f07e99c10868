"""What README and the pages under docs/ show, works: Python runs, command lines parse, and most of them run.

A page is run from top to bottom in one namespace, in a temporary directory that holds nothing but `net.py`, a small
network. Beside its blocks it can say, in comments that nobody sees who reads the page:

    <!-- run resnet50 as net.py:net -->     from here on the page is run with the one in place of the other
    <!-- parse -->                          the next block needs the network or minutes: its options are parsed
    <!-- usage -->                          the next block names options of commands, which they must have
    <!-- measured accuracy: 88.80 % -->     what is said here stands in benchmarks/results/accuracy.md; more after semicolons
    <!-- test ... -->                       Python, run in its place: what the page takes for granted, what it claims

A block with a title is written to the file of that name. Other blocks, as ```text, are shown and not run.
"""

import ast
import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer
from mkdocs.commands.build import build
from mkdocs.config import load_config
from typer.testing import CliRunner

import ptq
import ptq.calibration
import ptq.config
import ptq.export
import ptq.reconstruction.kernels
from ptq.calibration.observers import OBSERVERS
from ptq.calibration.synthesis_config import SYNTHESIS_METHODS
from ptq.cli.commands import app
from ptq.reconstruction.config import METHODS
from tests.helpers import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
NET = """
import torch
from tests.helpers.networks import BasicBlock, with_statistics
from torch import nn

PREPROCESS = dict(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

def net():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return with_statistics(nn.Sequential(stem, BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)))
"""
_PIECE = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$"
    r"|^<!-- run (?P<shown>.+?) as (?P<taken>.+?) -->$"
    r"|^<!-- measured (?P<table>\w+): (?P<figures>.+?) -->$"
    r"|^<!-- (?P<mark>parse|usage) -->$"
    r"|^<!-- test\n(?P<test>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A piece of a page to run: `kind` is python, file, sh, parse, usage or measured; `line` is where it begins."""

    kind: str
    code: str
    line: int
    title: str = ""


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page with stand-ins in place."""
    text, stand_ins, mark = page.read_text(), dict[str, str](), ""
    for found in _PIECE.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        if found["shown"]:
            stand_ins[found["shown"]] = found["taken"]
        elif found["mark"]:
            mark = found["mark"]
        elif found["table"]:
            yield Block("measured", found["figures"], line, found["table"])
        elif found["test"]:
            yield Block("python", found["test"], line)
        else:
            code, kind = found["code"], mark or found["language"]
            for shown, taken in stand_ins.items() if kind != "usage" else ():
                code = code.replace(shown, taken)
            if found["title"]:
                yield Block("file", code, line, found["title"])
            elif kind in ("python", "sh", "parse", "usage"):
                yield Block(kind, code, line)
            mark = ""


def commands(block: Block) -> Iterator[list[str]]:
    """The words of every command in a block of shell."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def command_of(name: str) -> Any:
    """One of ptq's commands."""
    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


def parse(arguments: list[str]) -> None:
    """Let the command line read its options, and do nothing."""
    name, *rest = arguments
    command_of(name).make_context(name, rest)


def options_of(name: str) -> set[str]:
    """All options that a command has."""
    return {option for parameter in command_of(name).params for option in parameter.opts}


def check_usage(block: Block) -> None:
    """The options that a synopsis names exist; a command's lines are indented below it."""
    known: set[str] = set()
    for line in block.code.splitlines():
        if line.startswith("ptq "):
            known = options_of(line.split()[1])
        named = set(re.findall(r"--[a-z][a-z-]*", line))
        assert named <= known, f"{named - known} in: {line}"


def check_install(words: list[str]) -> None:
    """`pip install .[extra]` names an extra that there is."""
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
        assert extra in setup["options.extras_require"], extra


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a line of shell in this process."""
    match words:
        case ["ptq", *arguments]:
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
        case ["python", file, *_] if file.endswith(".py"):
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(file, run_name="__main__")
        case ["pip", "install", *_]:
            check_install(words)
        case ["make", target]:
            assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE), target
        case _:
            raise AssertionError(f"a command that no test knows: {shlex.join(words)}")


def name_of(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


def runs(page: Path) -> bool:
    """Whether there is anything on a page that takes time."""
    return any(block.kind in ("python", "sh") for block in blocks(page))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory with net.py: what is imported from there, or registered, is forgotten afterwards."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with patch.dict(SYNTHESIS_METHODS), patch.dict(OBSERVERS), patch.dict(METHODS):
        yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name_of)
def test_a_page_runs_from_top_to_bottom(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.kind == "file":
            (workplace / block.title).write_text(block.code)
        elif block.kind == "python":
            at_its_line = "\n" * (block.line - 1) + block.code
            exec(compile(at_its_line, page, "exec"), namespace)
        elif block.kind == "sh":
            for words in commands(block):
                run_command(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_what_ptq_understands(page: Path, workplace: Path) -> None:
    for block in blocks(page):
        if block.kind == "file":
            (workplace / block.title).write_text(block.code)
        elif block.kind == "usage":
            check_usage(block)
        elif block.kind in ("sh", "parse"):
            for words in commands(block):
                if words[0] == "ptq":
                    parse(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_are_those_of_the_tables(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "measured":
            table = (CHECKOUT / "benchmarks" / "results" / f"{block.title}.md").read_text()
            for figure in block.code.split("; "):
                assert figure in table, f"{name_of(page)}:{block.line}: {figure} in {block.title}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_in_a_language_that_says_whether_it_runs(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    opening = {fence.partition(" ")[0] for fence in fences[::2] if " title=" not in fence}
    assert opening <= {"python", "sh", "text"}, opening
    assert not any(fences[1::2])


def messages() -> list[str]:
    """All texts in the sources, with … for what is put into them."""
    files = [f for folder in ("ptq", "calibration", "export") for f in (CHECKOUT / folder).rglob("*.py")]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_are_quoted_as_they_are() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", (CHECKOUT / "docs" / "limits.md").read_text(), re.MULTILINE)
    known = messages()
    assert len(rows) > 10
    for row in rows:
        assert any(row in message for message in known), row


def test_files_that_contributing_names_are_there_and_define_what_it_says() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    named = {path for path in re.findall(r"`([\w./]+)`", text) if "/" in path and not path.endswith(("/", "*.md"))}
    assert len(named) > 30
    assert [path for path in sorted(named) if not (CHECKOUT / path).exists() and path != ".venv/bin/activate"] == []
    defined = re.findall(r"`(\w+)(?:\.(\w+))?`(?: and `(\w+)`)? in `([\w/]+\.py)`", text)
    assert len(defined) > 5
    for *names, path in defined:
        source = (CHECKOUT / path).read_text()
        assert all(re.search(rf"(?:def|class) {name}\b|^{name}\b", source, re.MULTILINE) for name in names if name), (
            path
        )


def test_the_map_of_contributing_has_every_package_in_the_order_of_imports() -> None:
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    layers = re.findall(r"ptq\.(\w+)", setup["importlinter:contract:layers"]["layers"])
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    drawn = [
        name for line in re.findall(r"^    (\w+(?:, \w+)*)(?:  |$)", text, re.MULTILINE) for name in line.split(", ")
    ]
    assert drawn == [name for name in layers if name != "__main__"]


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(page.read_text() for page in (CHECKOUT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    public = {n for p in (ptq, ptq.config, ptq.calibration, ptq.export, ptq.reconstruction.kernels) for n in p.__all__}
    assert len(shown) == len(set(shown)) and public <= {path.rpartition(".")[2] for path in shown}
    for path in shown:
        package, _, name = path.rpartition(".")
        assert name in importlib.import_module(package).__all__, path


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    config = load_config(str(CHECKOUT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    build(config)
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:
        fetched = r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//"
        assert not re.findall(fetched, page)
        assert "doc-symbol-module" not in page  # a function that has the name of its module
    # From a disk the search runs a script of its own in place of a worker, and takes its index from another.
    assert 'src="search_from_disk.js"' in (tmp_path / "index.html").read_text()
    assert (tmp_path / "search" / "search_index.js").read_text().startswith("var __index = {")
    for table in (CHECKOUT / "benchmarks" / "results").glob("*.md"):
        shown = (tmp_path / "measured" / f"{table.stem}.html").read_text()
        assert "How it is measured" in shown and f"benchmarks.{table.stem}" in shown
    method = (tmp_path / "method.html").read_text()
    assert method.count("<math") > 30 and r"\(" not in method
