"""What is asked of pruning: how much, how channels are chosen, and how what is left is repaired. No torch."""

import math
from dataclasses import dataclass
from typing import get_args

from ptq.config.budgets import parse_budget
from ptq.config.choices import Allocation, Score, check_choice
from ptq.errors import InputError

__all__ = ["PruneConfig"]


@dataclass(frozen=True)
class PruneConfig:
    """How channels are removed, and what is left repaired.

    Args:
        budget: "1.5x" for as many times fewer multiply-accumulates, "60%" for a share of the parameters.
        score: what a channel is worth.
        allocation: how many channels every group keeps.
        granule: kept channels of every layer are a multiple of it, where they are not all kept; 1..
        closed_form: repair every layer behind removed channels by least squares.
        block_iterations: of repair block by block, each; 0 leaves it out.
        network_iterations: of repair of the whole network; 0 leaves it out.
        batch: images in an iteration, 1..
        lr_blocks: of Adam, in root mean squares of a filter; above 0.
        lr_network: the same, for the whole network.
        seed: of what images and views are drawn.

    Raises:
        InputError: for a budget that is none, an unknown choice, a granule or a batch below 1, iterations below 0, or
            a learning rate that is not above 0.
    """

    budget: str = "1.5x"
    score: Score = "gradient"
    allocation: Allocation = "loss-per-cost"
    granule: int = 8
    closed_form: bool = True
    block_iterations: int = 100
    network_iterations: int = 400
    batch: int = 32
    lr_blocks: float = 0.003
    lr_network: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        check_choice(self.score, get_args(Score), "score of channels")
        check_choice(self.allocation, get_args(Allocation), "allocation of channels")
        for name, least in (("granule", 1), ("batch", 1), ("block_iterations", 0), ("network_iterations", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}.")
        for name in ("lr_blocks", "lr_network"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}.")
