"""Imports point down only, and nobody imports the folders at the root by their bare names.

Modules that the table does not name are helpers: they count for whoever imports them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top down. Modules of one layer may import each other, unless they are in APART.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"pipeline", "finished_runs", "inspection", "rehearsal"},
    {"calibration", "export", "reconstruction", "sensitivity"},
    {"placement", "blocks", "graph", "models"},
    {"tuning"},
    {"quantizer"},
    {"kernels"},
    {"affine"},
    {"spec"},
)
APART = {"calibration", "export", "reconstruction", "sensitivity"}
LEAVES = {
    "errors",
    "progress",
    "files",
    "tensors",
    "metrics",
    "data",
    "memory",
    "precision",
    "resume",
    "sizes",
}


def imported(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(dotted: str) -> str:
    """The module or package right under ptq: ptq.calibration.objectives -> calibration."""
    return dotted.split(".")[1] if dotted.startswith("ptq.") else ""


def graph() -> dict[str, set[str]]:
    """Unit -> units it imports."""
    edges: dict[str, set[str]] = {}
    files = [f for f in (ROOT / "ptq").glob("*.py") if f.name != "__init__.py"]
    for package in ("ptq/reconstruction/kernels", "calibration", "export"):
        files += (ROOT / package).glob("*.py")
    names = {f.stem if f.parent.name == "ptq" else f.parent.name for f in files}
    for file in files:
        name = file.stem if file.parent.name == "ptq" else file.parent.name
        edges.setdefault(name, set()).update({unit(i) for i in imported(file)} & names - {name})
    return edges


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    """All units that `start` imports, directly or by way of helpers."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = edges[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


EDGES = graph()


def test_the_table_names_modules_that_exist() -> None:
    assert set().union(*LAYERS, LEAVES) <= EDGES.keys()


@pytest.mark.parametrize("layer", range(1, len(LAYERS)))
def test_no_layer_reaches_one_above(layer: int) -> None:
    above = set().union(*LAYERS[:layer])
    for name in LAYERS[layer] & EDGES.keys():
        assert not reachable(EDGES, name) & above, name


@pytest.mark.parametrize("name", sorted(APART))
def test_the_stages_do_not_know_each_other(name: str) -> None:
    assert not reachable(EDGES, name) & (APART - {name})


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_know_no_layer(name: str) -> None:
    assert not reachable(EDGES, name) & set().union(*LAYERS)


def test_folders_at_the_root_are_imported_as_parts_of_ptq() -> None:
    for folder in ("ptq", "calibration", "export", "benchmarks", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            bare = {name.split(".")[0] for name in imported(file)} & {"calibration", "export"}
            assert not bare, f"{file} imports {bare}: write ptq.{bare}"
