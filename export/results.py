"""What validation measures of an exported file, as data; nothing here needs torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ptq.errors import ValidationError

__all__ = [
    "AS_GOOD",
    "OWN_METRIC",
    "PRUNED_PREDICTIONS",
    "SAME_PREDICTIONS",
    "SPEED",
    "Check",
    "Exact",
    "OutputFigures",
    "Validation",
    "failures",
]

AS_GOOD = "the file is as good "
SAME_PREDICTIONS = "it predicts what the float network predicts"
PRUNED_PREDICTIONS = "the pruned network predicts what the float network predicts"
SPEED = "not slower than "
OWN_METRIC = "the user's metric can be measured"
"""Names of checks, or how they begin: on predictions, which mean nothing in a network that was not trained, on speed, and
on code that is not ptq's.

The last four a right file can fail: what to do is something else then.
"""


@dataclass(frozen=True)
class Check:
    """One thing that must hold of an exported file, and whether it does (`ptq.export.checks`).

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


@dataclass(frozen=True)
class Exact:
    """How a file compares with exact integer arithmetic (`ptq.export.integer_reference`).

    Args:
        images: how many were compared.
        differing: images on which any output differs.
        largest: the largest difference, as a share of the largest output.
    """

    images: int
    differing: int
    largest: float


@dataclass(frozen=True)
class OutputFigures:
    """How one output of the network agrees with the float one's.

    Args:
        name: of the output.
        kind: of it, a key of `ptq.tasks.kinds.KINDS`.
        measure: what the percentages are of, in words.
        agreement: in percent, by network as `Validation` names them.
    """

    name: str
    kind: str
    measure: str
    agreement: dict[str, float]


@dataclass(frozen=True)
class Validation:
    """What was measured. Shares are percentages of the images; None where it could not be measured.

    Attributes:
        validated_on: how many images.
        top1: of "float", "pruned" (where channels were removed), "simulated", "onnx", "onnx_unoptimized" and other runtimes; empty without labels.
        metrics: of the user's own metric, by its name, of "float", "pruned", "simulated" and "onnx"; empty where it failed for any.
        agreement: of "pruned", "simulated", "onnx" and "onnx_unoptimized" with float, as far as they were given, as the task of
            the network counts it; of several outputs the least.
        disagreement: what is missing to 100 % agreement of simulation and file; None without simulation.
        exact: how the file compares with exact integer arithmetic; None where that was not asked for.
        latency_ms: of "float", "pruned", "onnx", onnxruntime's own "quantize_static" and other runtimes, medians at batch 1, and
            the "threads" they were measured with.
        size_bytes: of "float", "pruned", "onnx" and "quantize_static".
        format: of the file's weights, "packed" or "int8"; "" where the file does not say.
        precise: whether onnxruntime was asked for exact sums because its default ones saturate here.
        float_layers: layers that onnxruntime ran in float.
        float_operators: the other operators that it ran in float.
        float_share: of the multiply-accumulates, in percent, what it did in float.
        unmeasured: what could not be measured, and why.
        checks: what must hold of the file, what was measured, and which of it failed.
        outputs: the agreement of every output by itself.
    """

    validated_on: int
    top1: dict[str, float]
    agreement: dict[str, float]
    disagreement: float | None
    exact: Exact | None
    latency_ms: dict[str, float]
    size_bytes: dict[str, int]
    format: str
    precise: bool
    float_layers: tuple[str, ...]
    float_operators: tuple[str, ...] = ()
    float_share: float = 0.0
    unmeasured: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    outputs: tuple[OutputFigures, ...] = ()
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[str, ...]:
        """One sentence per check that failed; empty is good."""
        return tuple(failures(self.checks))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        data = asdict(self)
        del data["checks"]
        return {**data, "gates": [check.to_json() for check in self.checks], "failed": list(self.failed)}

    def raise_for_failure(self) -> None:
        """Raise when a check failed.

        Raises:
            ValidationError: with one line per check.
        """
        if self.failed:
            raise ValidationError("the exported file failed validation:\n- " + "\n- ".join(self.failed))
