"""A listener in the place of a progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager

from ptq.progress import Task

__all__ = ["Recorder"]


class Recorder:
    """What a progress bar would have shown."""

    def __init__(self) -> None:
        self.total, self.done, self.open = 0, 0, False

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Task]:
        self.total, self.open = total, True
        yield self
        self.open = False

    def advance(self, n: int = 1, **figures: float) -> None:
        assert self.open
        assert all(value == value for value in figures.values())
        self.done += n
