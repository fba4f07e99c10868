"""Rows that belong to one image are known, and all else is not taken for such."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from ptq.graph.preparation import prepare
from ptq.graph.rows import mark_rows, rows_of
from tests.helpers.branching_networks import branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images

SHAPES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "as it is": (lambda x: x * 2, 1),
    "windows": (lambda x: x.reshape(-1, 16, 16), 3),
    "channels before images": (lambda x: x.transpose(0, 1).reshape(-1, 16, 16), 0),
    "batch in the second place": (lambda x: x.transpose(0, 1), 0),
    "one number": (lambda x: x.mean(), 0),
    "mixed": (lambda x: x + x.mean(0, keepdim=True), 0),
    "places": (lambda x: x.argmax(1), 0),
    "images turned around": (lambda x: x.flip(0), 0),
}


class Applied(nn.Module):
    """One function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", SHAPES)
def test_rows_are_found_by_computing(name: str) -> None:
    function, rows = SHAPES[name]
    graph = fx.symbolic_trace(Applied(function))
    mark_rows(graph, images(2))
    *_, last, _ = graph.graph.nodes
    assert rows_of(last) == rows
    if rows:
        assert last.meta["numel"] == 3 * 16 * 16


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_a_plain_network_has_one_row_per_image(name: str) -> None:
    graph = prepare(build(name), SHAPE).module
    nodes = [n for n in graph.graph.nodes if n.op not in ("get_attr", "output") and n.meta["is_tensor"]]
    assert {rows_of(n) for n in nodes} == {1}


def test_pixels_of_windows_have_a_row_for_each_window() -> None:
    graph = prepare(branching("windows"), SHAPE).module
    assert {rows_of(n) for n in graph.graph.nodes if n.name.startswith("inner")} == {4}
    assert torch.is_floating_point(graph(images(2)))
