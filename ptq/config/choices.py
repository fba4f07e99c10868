"""What can be chosen, each choice defined once: the command line, the settings and the registries take it from here.

The choices of a type are ``typing.get_args`` of it.
"""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args

from ptq.errors import InputError

__all__ = [
    "DEFAULT_METHOD",
    "MAX_BITS",
    "MIN_BITS",
    "REDUCED_BITS",
    "UNIVERSAL",
    "Allocation",
    "Arithmetic",
    "Format",
    "KeptBranches",
    "Method",
    "Optimizer",
    "OutputKind",
    "Place",
    "Preset",
    "Runtime",
    "Score",
    "SynthesisMethod",
    "check_bits",
    "check_choice",
    "kinds_by_output",
    "suggestion",
]

Preset = Literal["fast", "default", "best"]
"""How much time to spend."""

Method = Literal["qdrop", "brecq", "adaround", "nearest"]
"""How weights are rounded; see `ptq.reconstruction.config`."""

DEFAULT_METHOD: Method = "qdrop"

SynthesisMethod = Literal["mixmix", "zeroq", "deepinversion", "genie", "synq"]
"""How images are synthesized; see `ptq.calibration.synthesis_config`."""

UNIVERSAL = "universal"
"""The images that come with ptq, made once for any network; see `ptq.calibration.universal`."""

Format = Literal["packed", "int8"]
"""How weights lie in the file; see `ptq.export.packing`."""

KeptBranches = Literal["none", "identities", "all"]
"""Which branches that add up are left as they are; see `ptq.graph.folding.branch_folding`."""

Runtime = Literal["openvino"]
"""What runs a file besides onnxruntime; see `ptq.export.openvino`."""

Place = Literal["auto", "integers"]
"""Where operators compute that have integer kernels: where they are faster, or in integers; see `ptq.placement`."""

OutputKind = Literal["classify", "dense", "embed", "generic", "discrete"]
"""What an output of a network is; see `ptq.tasks.kinds`."""

Score = Literal["l1", "activation", "gradient", "reconstruction", "divergence"]
"""What a channel is worth; see `ptq.pruning.selection.scores`."""

Allocation = Literal["uniform", "global", "loss-per-cost"]
"""How many channels every group keeps; see `ptq.pruning.selection.allocation`."""

Optimizer = Literal["adamw", "sgd"]
"""What takes the steps of distillation; see `ptq.distillation.config`."""

Arithmetic = Literal["int8", "float"]
"""What a network computes in where its latency is measured."""

MIN_BITS = 2
MAX_BITS = 8  # every code lives in an 8-bit container, because that is what integer kernels read
REDUCED_BITS = 7  # of weights: two products of a uint8 and 7 bits fit the 16-bit sums of AVX2 kernels


def check_bits(bits: int, what: str) -> int:
    """Return `bits` when it is within 2..8.

    Raises:
        InputError: when it is not.
    """
    if not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{what} must be between {MIN_BITS} and {MAX_BITS} bits, not {bits}.")
    return bits


def check_choice(value: str, known: Iterable[str], what: str) -> None:
    """Refuse a value that is none of the choices.

    Args:
        value: what was chosen.
        known: the choices there are.
        what: is chosen, for the message.

    Raises:
        InputError: with the nearest choice, or all of them.

    Example:
        >>> check_choice("brecc", ("brecq", "qdrop"), "method")
        Traceback (most recent call last):
        ptq.errors.InputError: unknown method 'brecc'; did you mean brecq?
    """
    if value not in (known := list(known)):
        raise InputError(f"unknown {what} {value!r}{suggestion(value, known)}")


def kinds_by_output(task: str) -> dict[str, str]:
    """Return the kinds that a task says, by the output they are of; by "" that for all outputs which can be of it.

    Args:
        task: "auto", a kind, or kinds of single outputs as "scores=classify,boxes=generic".

    Raises:
        InputError: for an unknown kind.

    Example:
        >>> kinds_by_output("dense,boxes=generic"), kinds_by_output("auto")
        ({'': 'dense', 'boxes': 'generic'}, {})
    """
    found = {}
    for part in task.split(",") if task != "auto" else ():
        name, _, kind = part.rpartition("=")
        check_choice(kind.strip(), (*get_args(OutputKind), *(() if name else ("auto",))), "task")
        found[name.strip()] = kind.strip()
    return found


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, or all.

    Example:
        >>> suggestion("fats", ["fast", "best"]), suggestion("quick", ["fast", "best"])
        ('; did you mean fast?', '; choose one of fast, best.')
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}."
