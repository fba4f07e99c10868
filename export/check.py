"""A gate: one thing that must hold of an exported file, what was measured, and what is wrong where it does not."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Gate", "failures"]


@dataclass(frozen=True)
class Gate:
    """One gate and its answer.

    Args:
        name: what must hold, in a few words.
        measured: what was found, in numbers.
        failure: what is wrong and what to do about it, a sentence; empty where the gate is passed.

    Example:
        >>> Gate("not slower than float", "2.9 against 7.8 ms").passed
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
        """Return the gate as JSON-able data."""
        return {**asdict(self), "passed": self.passed}


def failures(gates: Iterable[Gate]) -> list[str]:
    """Return the sentences of the gates that failed.

    Example:
        >>> failures([Gate("small", "1 MB"), Gate("fast", "9 ms", "the file is slow.")])
        ['the file is slow.']
    """
    return [gate.failure for gate in gates if not gate.passed]
