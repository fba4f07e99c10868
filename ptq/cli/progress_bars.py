"""Progress for people: live bars on a terminal, a plain line now and then everywhere else."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Live, TaskID, TextColumn

from ptq.progress import Progress, Task
from ptq.utils.units import duration_text, short_text

__all__ = ["Bars", "Lines", "progress_for"]


def progress_for(console: Console) -> Progress:
    """Bars where `console` is a terminal, lines where its output goes to a file or a pipe.

    Example:
        >>> type(progress_for(Console(file=open("/dev/null", "w")))).__name__
        'Lines'
    """
    return Bars(console) if console.is_terminal else Lines()


class Bars:
    """A bar per stage, with its figures and the time left; finished stages stay as one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Task]:
        """Open a stage; one opened inside another shows under it and goes when it ends."""
        outermost = self._live is None
        if self._live is None:
            self._live = Live(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._live.start()
        live = self._live
        clock = _Clock(total)
        bar = _Bar(live, live.add_task(name, total=total, status=""), clock)
        try:
            yield bar
            live.update(bar.task_id, status=clock.finished())
            if not outermost:
                live.remove_task(bar.task_id)
        finally:
            if outermost:
                self._live = None
                live.stop()


class _Bar:
    def __init__(self, live: Live, task_id: TaskID, clock: "_Clock") -> None:
        self.task_id = task_id
        self._live = live
        self._clock = clock

    def advance(self, n: int = 1, **figures: float) -> None:
        self._clock.advance(n, figures)
        self._live.update(self.task_id, advance=n, status=self._clock.status())


class Lines:
    """A line every `interval` seconds of a stage, and one at its end."""

    def __init__(
        self,
        interval: float = 5.0,
        write: Callable[[str], object] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._write = write or _print
        self._now = now

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Task]:
        """Open a stage of `total` units of work."""
        line = _Line(name, self._interval, self._write, _Clock(total, self._now))
        yield line
        self._write(f"{name}: {line.clock.finished()}")


class _Line:
    def __init__(self, name: str, interval: float, write: Callable[[str], object], clock: "_Clock") -> None:
        self.clock = clock
        self._name = name
        self._interval = interval
        self._write = write
        self._next = interval

    def advance(self, n: int = 1, **figures: float) -> None:
        self.clock.advance(n, figures)
        if self.clock.elapsed() >= self._next and self.clock.done < self.clock.total:
            self._next = self.clock.elapsed() + self._interval
            done = f"{self.clock.done}/{self.clock.total}"
            self._write(f"{self._name}: {done}, {self.clock.status()}")


class _Clock:
    """How far a stage is, what its figures are, how long it still takes at the pace so far."""

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._figures: dict[str, float] = {}
        self._now = now
        self._start = now()

    def advance(self, n: int, figures: dict[str, float]) -> None:
        self.done += n
        self._figures.update(figures)

    def elapsed(self) -> float:
        return self._now() - self._start

    def status(self) -> str:
        left = self.elapsed() * (self.total - self.done) / self.done if self.done else 0.0
        return ", ".join([*self._shown(), f"{duration_text(left)} left"])

    def finished(self) -> str:
        return ", ".join([*self._shown(), f"done in {duration_text(self.elapsed())}"])

    def _shown(self) -> list[str]:
        return [f"{name} {short_text(value)}" for name, value in self._figures.items()]


def _print(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
