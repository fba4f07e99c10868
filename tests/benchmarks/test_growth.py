"""The model of what several processes bring, on rows whose answer is known."""

import pytest

from benchmarks.growth import fitted, model, page
from benchmarks.rows import Rows

ABOUT = {"machine": {"cpu": "made up"}, "versions": {}}
ROWS: Rows = [
    {"what": "64 images", "processes": 1, "seconds": 10.0, "sha256": "a"},
    {"what": "64 images", "processes": 2, "seconds": 5.0, "sha256": "a"},
    {"what": "reconstruction", "processes": 1, "seed": 0, "seconds": 5.0, "kl": 0.1, "iterations": 100},
    *({"what": "computing", "batch": batch, "ms": float(batch)} for batch in (32, 16, 8, 4)),
    {"what": "message", "blocks": 2, "bytes": 1000},
    {"what": "reconstruction", "processes": 2, "seed": 0, "seconds": 3.0, "kl": 0.1, "iterations": 100},
    {"what": "sum", "bytes": 1000, "ms": 3.0},
    {"what": "sum", "bytes": 2000, "ms": 4.0},
]


def test_latency_and_bandwidth_are_those_of_the_sums() -> None:
    assert fitted(ROWS) == pytest.approx((2.0, 1e-3))


def test_one_process_takes_what_was_measured_and_more_take_less_but_for_talk() -> None:
    assert model(ROWS, 1)["seconds"] == pytest.approx(5.0)
    assert model(ROWS, 2, link=(0.0, 0.0))["share"] == pytest.approx(1.0)
    # 1.8 s in between halved, 100 iterations of 16 ms, and of two sums of 2 ms and 1,000 bytes in 1 ms.
    assert model(ROWS, 2)["seconds"] == pytest.approx(0.9 + 0.1 * (16 + 2 * 2 + 1))
    assert model(ROWS, 4)["talk"] == pytest.approx(2 * 2 * 3 + 1.5)


def test_the_page_has_all_processes() -> None:
    text = "\n".join(page([row | ABOUT for row in ROWS]))
    assert text.count("\n| 2 |") == 1 and "| 8 |" in text
