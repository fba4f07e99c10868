"""Charts: in the page's colors, of what was measured."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from ptq.reporting.html.plots import Point, histogram as drawn, loss_curves, tradeoff, tradeoff_file
from tests.helpers.reports import histogram

POINTS = [Point("float", 18.6, 88.8, True), Point("a", 3.4, 85.6), Point("</text><b>$x$&", 3.41, 85.5)]


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if e.tag.rpartition("}")[2] == tag]


@pytest.mark.parametrize(
    "svg",
    [
        drawn(histogram(), "value", 16, "a"),
        loss_curves([[1.0, 0.5]], "a"),
        tradeoff(POINTS, "MB", "%"),
        tradeoff(POINTS[:1], "MB", "%"),
        tradeoff([Point("none", 0.0, 0.0)], "MB", "%"),
    ],
)
def test_a_drawing_is_part_of_a_page(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" and "width" not in root.attrib
    assert "http" not in svg and "font-family" not in svg and "#0a0b" not in svg
    known = {element.get("id") for element in root.iter()}
    assert set(re.findall(r"#([\w-]+)", svg)) <= known
    assert "var(--muted)" in svg


def test_labels_are_text_and_nothing_else() -> None:
    svg = tradeoff(POINTS, "MB", "%")
    assert "</text><b>$x$&" in [e.text for e in elements(svg, "text")]
    assert not elements(svg, "b")


def test_what_lies_beyond_the_grid_has_another_color() -> None:
    beyond = histogram(clipped=0.0, counts=(0, 0, 5, 50, 100, 60, 4, 0), low=-7.0, high=7.0)
    areas = [drawn(data, "value", 16, "a").count("var(--orange)") for data in (histogram(), beyond)]
    assert areas[0] >= 1 and areas[0] >= areas[1]


@pytest.mark.parametrize("change", [{"counts": [0] * 8}, {"counts": [5] + [0] * 7}])
def test_odd_histograms_are_drawn(change: dict[str, Any]) -> None:
    assert elements(drawn(histogram(**change), "value", 256, "a"), "path")


def test_levels_are_drawn_where_they_can_be_told_apart() -> None:
    def paths(levels: int) -> int:
        return len(elements(drawn(histogram(), "value", levels, "a"), "path"))

    assert paths(16) - paths(256) >= 16


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in elements(svg, "text")]


def test_labels_keep_their_digits() -> None:
    rare = histogram(counts=[1, 0, 5, 50, 1_000_000, 60, 4, 1])
    labels = [text for text in texts(drawn(rare, "value", 16, "a")) if text.endswith("%")]
    assert labels and all(float(label.removesuffix(" %")) > 0 for label in labels), labels


def test_losses_are_all_on_the_same_scale() -> None:
    for losses in ([[0.1, 0.01]], [[0.9, 0.5], [0.8]]):
        assert {"0.0", "0.5", "1.0"} <= set(texts(loss_curves(losses, "a")))
    assert "2" in " ".join(texts(loss_curves([[2.5, 1.0]], "a")))


def test_float_is_named_once_where_it_was_measured_twice() -> None:
    again = [Point("float", 18.65, 88.8, True), Point("float", 2.0, 70.0, True)]
    labels = texts(tradeoff([*POINTS[:2], *again], "MB", "%"))
    assert labels.count("float") == 2  # the other stands far away


def test_no_axis_promises_more_than_all() -> None:
    ticks = texts(tradeoff([Point("float", 2.0, 100.0, True), Point("a", 1.0, 45.0)], "MB", "%"))
    numbers = [float(t) for t in ticks if t.replace(".", "").isdigit()]
    assert 100 in numbers and max(numbers) == 100


def test_ids_differ_between_charts() -> None:
    first, second = (set(re.findall(r'id="([^"]+)"', loss_curves([[1.0]], m))) for m in "ab")
    assert first and not first & second


def test_a_file_of_charts_stands_alone() -> None:
    svg = tradeoff_file({"MB": POINTS, "ms": POINTS}, "top-1 %")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "var(" not in svg and "#0a0b" not in svg
