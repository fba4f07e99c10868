"""What a long stage tells whoever watches it; the command line draws it, the core only speaks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Progress", "Task"]


class Task(Protocol):
    """One running stage."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Report `n` more units of work done, and figures worth watching (``loss=0.12``)."""


class Progress(Protocol):
    """Where stages report to."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Open a stage of `total` units of work."""


class _Silent:
    """Says nothing: the default of every function in the library."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Task]:
        yield self

    def advance(self, n: int = 1, **figures: float) -> None:
        pass


SILENT: Progress = _Silent()
