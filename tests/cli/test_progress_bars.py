"""Progress as lines, by a clock that the test sets, and as bars on a terminal that is a string."""

import io

import pytest
from rich.console import Console

from ptq.cli.progress_bars import Bars, Lines, progress_for


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def said() -> list[str]:
    return []


def test_lines_come_at_intervals_with_figures_and_time_left(said: list[str]) -> None:
    clock = Clock()
    with Lines(5.0, said.append, clock).stage("synthesize", 80) as task:
        for _ in range(80):
            clock.time += 0.25
            task.advance(loss=1.5)
    assert said == [
        "synthesize: 20/80, loss 1.5, 15 s left",
        "synthesize: 40/80, loss 1.5, 10 s left",
        "synthesize: 60/80, loss 1.5, 5.0 s left",
        "synthesize: loss 1.5, done in 20 s",
    ]


def test_a_short_stage_is_one_line(said: list[str]) -> None:
    clock = Clock()
    with Lines(5.0, said.append, clock).stage("export", 1) as task:
        task.advance()
    assert said == ["export: done in 0.0 s"]


def test_a_stage_that_fails_does_not_claim_to_be_done(said: list[str]) -> None:
    def stage() -> None:
        with Lines(5.0, said.append, Clock()).stage("export", 1):
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        stage()
    assert said == []


def test_bars_show_nested_stages_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    bars = progress_for(console)
    assert isinstance(bars, Bars)
    with bars.stage("reconstruct", 2) as outer:
        for block in range(2):
            with bars.stage(f"block {block}", 3) as inner:
                inner.advance(3, loss=0.25)
            outer.advance(sqnr=30.0)
    text = screen.getvalue()
    assert "reconstruct" in text
    assert "2/2" in text
    assert "sqnr 30, done in" in text
    with bars.stage("again", 1) as task:
        task.advance()
    assert "again" in screen.getvalue()


def test_output_to_a_file_gets_lines() -> None:
    assert isinstance(progress_for(Console(file=io.StringIO())), Lines)
