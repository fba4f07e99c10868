"""Every layer by name once, at any width, and advice that follows from the figures."""

import io
import json
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from ptq.analysis.sensitivity import Sensitivity, measure_sensitivity
from ptq.cli.values import bits_by_pattern
from ptq.config.flat_options import make_settings
from ptq.reconstruction.config import METHODS
from ptq.reconstruction.loop import reconstruct
from ptq.reporting.facts import ImageFacts, Teacher
from ptq.reporting.inspection import Inspection
from ptq.reporting.inspection_page import advice, headlines, markdown, print_inspection, tables, write_inspection
from tests.helpers.networks import images, quantized_network

IMAGES = ImageFacts(24, "mixmix", teachers=(Teacher("resnet"),))


@cache
def found(weight_bits: int = 3, act_bits: int = 4, after: bool = True) -> Inspection:
    quantized_model, x = quantized_network("resnet", weight_bits, act_bits), images(24)
    before, later = measure_sensitivity(quantized_model, x), None
    if after:
        reconstruct(quantized_model, x, replace(METHODS["qdrop"], batch=8, iterations=10))
        later = measure_sensitivity(quantized_model, x)
    settings = make_settings("resnet", weight_bits, act_bits=act_bits)
    return Inspection(settings, "resnet", IMAGES, before, later)


def hurt(weight_bits: int, act_bits: int) -> Inspection:
    """Before reconstruction, and as if the network suffered from it."""
    inspection = found(weight_bits, act_bits, after=False)
    worse = replace(inspection.before, network=replace(inspection.before.network, loss=1.0))
    return replace(inspection, before=worse)


def names(state: Sensitivity) -> list[str]:
    return sorted(layer.name for layer in state.layers)


def printed(inspection: Inspection, width: int, top: int | None = None) -> str:
    screen = io.StringIO()
    print_inspection(inspection, top, Console(file=screen, width=width))
    return screen.getvalue()


@pytest.mark.parametrize("after", [False, True])
def test_the_tables_name_every_layer_once_and_are_rectangular(after: bool) -> None:
    inspection = found(after=after)
    costs, ranges, blocks = tables(inspection)
    for table in (costs, ranges):
        assert sorted(row[0] for row in table.rows) == names(inspection.before)
    assert [row[0] for row in blocks.rows] == [block.name for block in inspection.before.blocks]
    for table in (costs, ranges, blocks):
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert ("before" in " ".join(table.head)) == after


def test_the_layers_that_cost_most_come_first() -> None:
    latest = found().latest
    assert latest is found().after
    cost = {layer.name: layer.cost.loss for layer in latest.layers}
    costs, ranges, _ = tables(found(), top=3)
    assert [row[0] for row in costs.rows] == sorted(cost, key=lambda name: -cost[name])[:3]
    assert [row[0] for row in ranges.rows] == [row[0] for row in costs.rows]
    assert costs.title.startswith("3 layers")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(width: int) -> None:
    text = printed(found(), width)
    known = names(found().before)
    rows = [line for line in text.splitlines() if line.split(" ")[0] in known]
    assert len(rows) == 2 * len(known) + len(found().before.blocks)
    assert max(map(len, rows)) <= width
    assert "…" not in text
    assert advice(found()) in text.splitlines()  # whole, so that it can be copied


def test_the_page_holds_every_layer_and_the_advice() -> None:
    page = markdown(found())
    for name in names(found().before):
        assert page.count(f"\n| {name} | ") in (2, 3)  # the last layer of a block names it
    assert advice(found()) in page


def test_noise_is_said_to_be_noise() -> None:
    noise = replace(found(), images=ImageFacts(24, "gaussian noise"))
    assert len(headlines(noise)) == len(headlines(found())) + 1
    before = replace(found(after=False), images=ImageFacts(24, "gaussian noise"))
    assert "ptq synthesize" in "\n".join(headlines(before))


def test_advice_names_layers_by_what_makes_their_noise() -> None:
    weights = advice(hurt(2, 8))
    assert "--layer" in weights and "--act-bits" not in weights
    words = shlex.split(weights[weights.index("--layer") :].rstrip("."))
    named = bits_by_pattern(words[1::2])
    cost = {layer.name: layer.cost.loss for layer in found(2, 8, after=False).before.layers}
    assert set(named.values()) == {8}
    assert max(cost, key=lambda name: cost[name]) in named
    inputs = advice(hurt(8, 2))
    assert "--act-bits" in inputs and "--layer" not in inputs


def test_advice_keeps_the_overrides_there_are() -> None:
    inspection = hurt(2, 8)
    chosen = make_settings("resnet", layers={"blocks.9.*": None})
    assert "--layer 'blocks.9.*=float' --layer " in advice(replace(inspection, settings=chosen))


def test_there_may_be_nothing_to_do() -> None:
    assert "--" not in advice(found(8, 8, after=False)) + advice(hurt(8, 8))


def test_files_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    page, figures = tmp_path / "inspect.md", tmp_path / "inspect.json"
    assert write_inspection(found()) == []
    assert write_inspection(found(), tmp_path) == [page, figures]
    assert page.read_text() == markdown(found())
    data = json.loads(figures.read_text())
    assert [layer["name"] for layer in data["after"]["layers"]] == list(quantized_network("resnet").layers())
    assert data["advice"] == advice(found())
    elsewhere = tmp_path / "mine.json"
    assert write_inspection(found(), None, elsewhere) == [elsewhere]
    assert json.loads(elsewhere.read_text()) == data
    assert {path.name for path in tmp_path.iterdir()} == {"inspect.md", "inspect.json", "mine.json"}
