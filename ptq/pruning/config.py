"""What is asked of pruning: how much, and how channels are chosen. No torch."""

from dataclasses import dataclass
from typing import get_args

from ptq.config.budgets import parse_budget
from ptq.config.choices import Allocation, Score, check_choice
from ptq.errors import InputError

__all__ = ["PruneConfig"]


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
