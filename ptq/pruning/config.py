"""What is asked of pruning: how much, and how channels are chosen. No torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ptq.config.choices import check_choice
from ptq.errors import InputError

__all__ = ["Allocation", "Budget", "PruneConfig", "Score", "parse_budget"]

Score = Literal["l1", "activation", "gradient", "reconstruction"]
"""What a channel is worth; see `ptq.pruning.scores`."""

Allocation = Literal["uniform", "global", "loss-per-cost"]
"""How many channels every group keeps; see `ptq.pruning.allocation`."""


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


@dataclass(frozen=True)
class PruneConfig:
    """How channels are removed.

    Args:
        budget: "1.5x" for as many times fewer multiply-accumulates, "60%" for a share of the parameters.
        score: what a channel is worth.
        allocation: how many channels every group keeps.
        granule: kept channels of every layer are a multiple of it, where they are not all kept; 1..
        repair: fit the layers behind removed channels to what they gave before.

    Raises:
        InputError: for a budget that is none, an unknown choice, or a granule below 1.
    """

    budget: str = "1.5x"
    score: Score = "reconstruction"
    allocation: Allocation = "loss-per-cost"
    granule: int = 8
    repair: bool = True

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        check_choice(self.score, get_args(Score), "score of channels")
        check_choice(self.allocation, get_args(Allocation), "allocation of channels")
        if self.granule < 1:
            raise InputError(f"a granule of {self.granule} channels is none: it must be 1 or more.")


def parse_budget(text: str) -> Budget:
    """Return the budget that a text says.

    Raises:
        InputError: for anything but "1.5x", with a factor of at least 1, or "60%", above 0 and up to 100.

    Example:
        >>> parse_budget("2x"), parse_budget("60%")
        (Budget(quantity='macs', share=0.5), Budget(quantity='parameters', share=0.6))
    """
    number, unit = text.strip()[:-1], text.strip()[-1:].lower()
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if unit == "x" and 1 <= value < math.inf:
        return Budget("macs", 1 / value)
    if unit == "%" and 0 < value <= 100:
        return Budget("parameters", value / 100)
    raise InputError(
        f"a budget of {text!r} says nothing: give 1.5x for 1.5 times fewer multiply-accumulates (at least 1x), "
        "or 60% for that share of the parameters (above 0, up to 100)."
    )
