"""A check: one thing that must hold of an exported file, what was measured, and what is wrong where it does not."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Check", "failures"]


@dataclass(frozen=True)
class Check:
    """One check and its answer.

    Args:
        name: what must hold, in a few words.
        measured: what was found, in numbers.
        failure: what is wrong and what to do about it, a sentence; empty where the check is passed.

    Example:
        >>> Check("not slower than float", "2.9 against 7.8 ms").passed
        True
    """

    name: str
    measured: str
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.failure

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON-able data."""
        return {**asdict(self), "passed": self.passed}


def failures(checks: Iterable[Check]) -> list[str]:
    """Return the sentences of the checks that failed.

    Example:
        >>> failures([Check("small", "1 MB"), Check("fast", "9 ms", "the file is slow.")])
        ['the file is slow.']
    """
    return [check.failure for check in checks if not check.passed]
