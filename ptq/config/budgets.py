"""What a pruned network may cost, as text says it: "1.5x", "60%", "3ms"."""

import math
from dataclasses import dataclass
from typing import Literal

from ptq.errors import InputError
from ptq.utils.units import limit_text

__all__ = ["Budget", "parse_budget", "parse_factor", "parse_milliseconds", "parse_share"]


@dataclass(frozen=True)
class Budget:
    """What a pruned network may cost.

    Args:
        quantity: "macs", multiply-accumulates for one image, or "parameters".
        share: of what the network costs, 0..1.
    """

    quantity: Literal["macs", "parameters"]
    share: float

    def __str__(self) -> str:
        if self.quantity == "macs":
            return f"{1 / self.share:.3g}x fewer multiply-accumulates"
        return f"{100 * self.share:.3g}% of the parameters"

    def met_by(self, share: float) -> bool:
        """Return whether a network of this share costs no more; the last bit of a quotient does not count."""
        return share <= self.share * (1 + 1e-12)

    def limit(self) -> str:
        """Return the same, rounded so that it can be asked for where this is the least that there can be.

        Example:
            >>> str(Budget("macs", 0.16688)), Budget("macs", 0.16688).limit()
            ('5.99x fewer multiply-accumulates', '5.99x fewer multiply-accumulates')
        """
        if self.quantity == "macs":
            return f"{limit_text(1 / self.share, up=False)}x fewer multiply-accumulates"
        return f"{limit_text(100 * self.share, up=True)}% of the parameters"


def parse_budget(text: str) -> Budget:
    """Return the budget that a text says.

    Raises:
        InputError: for anything but "1.5x", with a factor of at least 1, or "60%", above 0 and up to 100.

    Example:
        >>> parse_budget("2x"), parse_budget("60%")
        (Budget(quantity='macs', share=0.5), Budget(quantity='parameters', share=0.6))
    """
    if text.strip().lower().endswith("x"):
        return Budget("macs", 1 / parse_factor(text))
    if text.strip().endswith("%"):
        return Budget("parameters", parse_share(text))
    raise InputError(
        f"a budget of {text!r} says nothing: give 1.5x for 1.5 times fewer multiply-accumulates (at least 1x), "
        "or 60% for that share of the parameters (above 0, up to 100)."
    )


def parse_factor(text: str) -> float:
    """Return how many times fewer multiply-accumulates "1.5x" asks for.

    Raises:
        InputError: for anything else, and for a factor below 1.
    """
    factor = _number(text, "x")
    if not 1 <= factor < math.inf:
        raise InputError(f"{text!r} is no factor; give 1.5x for 1.5 times fewer multiply-accumulates, at least 1x.")
    return factor


def parse_share(text: str) -> float:
    """Return the share of the parameters, 0..1, that "60%" asks for.

    Raises:
        InputError: for anything else.
    """
    percent = _number(text, "%")
    if not 0 < percent <= 100:
        raise InputError(f"{text!r} is no share; give 60% for that share of the parameters, above 0 and up to 100.")
    return percent / 100


def parse_milliseconds(text: str) -> float:
    """Return the milliseconds that "3ms" asks for.

    Raises:
        InputError: for anything else.
    """
    milliseconds = _number(text, "ms")
    if not 0 < milliseconds < math.inf:
        raise InputError(f"{text!r} is no time; give 3ms for 3 milliseconds for one image.")
    return milliseconds


def _number(text: str, unit: str) -> float:
    """The number before a unit; NaN where there is none."""
    number = text.strip().lower()
    try:
        return float(number.removesuffix(unit)) if number.endswith(unit) else math.nan
    except ValueError:
        return math.nan
