"""What of pruning arrives as time: the share, and the page that shows it."""

import pytest

from benchmarks.pruning_latency import arrives, page

ROW = {
    "network": "resnet18",
    "threads": 1,
    "score": "gradient",
    "allocation": "loss-per-cost",
    "granule": 8,
    "runs": 30,
    "ms": {"float": 30.0, "int8": 10.0, "1.5x": 7.5, "2x": 6.0},
    "macs": {"int8": 300, "1.5x": 200, "2x": 150},
    "machine": {"cpu": "any"},
    "versions": {},
}


def test_all_of_it_arrives_where_time_falls_as_the_work_does() -> None:
    row = ROW | {"ms": {"int8": 9.0, "1.5x": 6.0, "2x": 9.0}}
    assert arrives(row, "1.5x") == pytest.approx(1.0)
    assert arrives(row, "2x") == 0.0


def test_page_has_time_work_and_share_of_every_budget() -> None:
    text = "\n".join(page([ROW]))
    assert "| 7.50 (1.50) | 75 % | 6.00 (2.00) | 80 % |" in text


def test_page_of_other_budgets_leaves_cells_empty() -> None:
    other = ROW | {"network": "vgg16_bn", "ms": {"float": 3.0, "int8": 2.0, "3x": 1.0}, "macs": {"int8": 3, "3x": 1}}
    lines = [line for line in "\n".join(page([ROW, other])).split("\n") if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
