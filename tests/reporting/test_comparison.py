"""Runs side by side: the best is marked where it means something, and what keeps runs apart is said."""

import math
from pathlib import Path
from typing import Any

import pytest

from ptq.errors import InputError
from ptq.reporting.comparison import Column, Comparison, compare
from ptq.reporting.report_files import write_report
from tests.helpers.reports import check, made_up


def write(folder: Path, **changes: Any) -> Path:
    """A run's report; names with "__" change what lies within: top1__onnx."""
    write_report(made_up(**changes), folder)
    return folder


def columns(found: Comparison) -> dict[str, Column]:
    return {column.title: column for column in found.columns}


def test_the_best_of_every_column_is_marked(tmp_path: Path) -> None:
    one = write(tmp_path / "a", top1__onnx=80.0, latency_ms__onnx=3.0)
    other = write(tmp_path / "b", top1__onnx=85.0, size_bytes__onnx=700_000)
    found = compare([one, other])
    best = {title: set(column.best) for title, column in columns(found).items() if column.best}
    assert best == {"top-1 %": {1}, "over float": {1}, "latency ms": {0}, "times as fast": {0}, "size MB": {0}}
    assert columns(found)["over float"].cells() == ["−8.25", "−3.25"]
    assert [entry.name for entry in found.entries] == ["a", "b"] and found.notes == ()


def test_what_looks_equal_is_marked_together_or_not_at_all(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(i), top1__onnx=v) for i, v in enumerate((80.001, 80.0, 79.0))]
    assert columns(compare(folders))["top-1 %"].best == {0, 1}
    assert not columns(compare(folders[:2]))["top-1 %"].best
    assert not any(column.best for column in compare(folders[:1]).columns)


@pytest.mark.parametrize(
    ("change", "note", "unmarked"),
    [
        ({"machine__cpu": "another"}, "different machines", {"latency ms", "times as fast"}),
        (
            {"latency_ms__threads": 8},
            "different numbers of threads (a: 2 threads; b: 8 threads)",
            {"latency ms", "times as fast"},
        ),
        ({"settings__evaluation__data": "other"}, "different data", {"top-1 %", "over float", "same as float %"}),
        ({"validated_on": 10}, "10 images of val", {"top-1 %", "over float", "same as float %"}),
        ({"top1": {}, "settings__evaluation__data": None}, "own calibration images", {"top-1 %", "same as float %"}),
        ({"model__name": "other"}, "models differ", set()),
        ({"model__sha256": "ab"}, "weights or input sizes differ", set()),
        ({"versions": {"onnxruntime": "1.0"}}, "versions of onnxruntime differ", set()),
    ],
)
def test_what_differs_is_said_and_then_not_marked(
    change: dict[str, Any], note: str, unmarked: set[str], tmp_path: Path
) -> None:
    better = {"latency_ms__onnx": 1.0, "agreement__onnx": 99.0, "size_bytes__onnx": 1, **change}
    if "top1" not in change:
        better["top1__onnx"] = 88.0
    found = compare([write(tmp_path / "a"), write(tmp_path / "b", **better)])
    assert any(note in line for line in found.notes), found.notes
    marked = {title for title, column in columns(found).items() if column.best}
    assert not marked & unmarked and "size MB" in marked


def test_a_table_names_models_where_there_are_several(tmp_path: Path) -> None:
    one, other = (write(tmp_path / "a"), write(tmp_path / "b", model__name="big"))
    same = compare([one, one]).table(lambda cell, best: cell)
    assert same.title == "2 runs of tinynet" and [row[0] for row in same.rows] == ["a", "a"]
    table = compare([one, other]).table(lambda cell, best: cell)
    assert [row[0] for row in table.rows] == ["a (tinynet)", "b (big)"]
    assert {len(row) for row in table.rows} == {len(table.head)}


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [write(tmp_path / part / "run") for part in ("x", "y")]
    assert [entry.name for entry in compare(folders).entries] == ["x/run", "y/run"]


def test_what_was_not_measured_is_blank(tmp_path: Path) -> None:
    bare = write(tmp_path / "a", top1={}, agreement={}, latency_ms={}, size_bytes={}, seconds={})
    odd = write(tmp_path / "b", top1__onnx=math.nan)
    found = columns(compare([bare, odd]))
    assert found["latency ms"].cells()[0] == "" and "top-1 %" not in found
    assert set(columns(compare([bare]))) == {"bits W/A", "checks"}


def test_failed_checks_are_counted(tmp_path: Path) -> None:
    failed = write(tmp_path / "a", gates=[check("one"), check("two", "slow.")])
    good = write(tmp_path / "b", gates=[check("one")])
    assert columns(compare([failed, good]))["checks"].cells() == ["1 failed", "1 passed"]


def test_a_run_that_failed_is_the_best_of_nothing(tmp_path: Path) -> None:
    slow, fast = (write(tmp_path / n, latency_ms__onnx=v) for n, v in (("slow", 4.0), ("fast", 3.0)))
    wrong = write(tmp_path / "wrong", latency_ms__onnx=1.0, top1__onnx=99.0, gates=[check("one", "wrong.")])
    found = compare([slow, fast, wrong])
    assert columns(found)["latency ms"].best == {1} and not columns(found)["top-1 %"].best
    assert "wrong" in found.notes[0]
    assert not any(column.best for column in compare([slow, wrong]).columns)


def test_latency_is_not_compared_where_the_machine_was_busy_in_one_run(tmp_path: Path) -> None:
    idle = write(tmp_path / "idle", latency_ms__onnx=4.0, latency_ms__float=12.0)
    busy = write(tmp_path / "busy", latency_ms__onnx=9.0, latency_ms__float=36.0)
    found = compare([idle, busy])
    assert not columns(found)["latency ms"].best and columns(found)["times as fast"].best == {1}
    assert any("took 12.00 to 36.00 ms" in note for note in found.notes)
    assert "fastest" not in [what for what, _, _ in found.winners()]


def test_the_best_are_named(tmp_path: Path) -> None:
    small = {"top1__onnx": 80.0, "size_bytes__onnx": 500_000}
    folders = [write(tmp_path / "a"), write(tmp_path / "b", **small), write(tmp_path / "c", **small)]
    assert [names for _, names, _ in compare(folders).winners()] == ["a", "b, c"]
    other = write(tmp_path / "d", model__name="other", **small)
    assert compare([folders[0], other]).winners() == []


def test_missing_and_broken_runs_are_one_message(tmp_path: Path) -> None:
    whole = write(tmp_path / "a")
    with pytest.raises(InputError, match="none"):
        compare([whole, tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        compare([whole, tmp_path / "empty"])
