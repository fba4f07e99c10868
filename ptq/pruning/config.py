"""What is asked of pruning: how much, how channels are chosen, and how what is left is repaired. No torch."""

import math
from dataclasses import dataclass, replace
from typing import get_args

from ptq.config.budgets import parse_budget
from ptq.config.choices import Allocation, Score, check_choice
from ptq.errors import InputError

__all__ = ["PruneConfig"]

SMALL = 64  # pixels a side up to which images are cheap


@dataclass(frozen=True)
class PruneConfig:
    """How channels are removed, and what is left repaired.

    Args:
        budget: "1.5x" for as many times fewer multiply-accumulates, "60%" for a share of the parameters.
        score: what a channel is worth.
        allocation: how many channels every group keeps.
        granule: kept channels of every layer are a multiple of it, where they are not all kept; 1..
        closed_form: repair every layer behind removed channels by least squares.
        block_iterations: of repair block by block, each; 0 leaves it out: the whole network comes as far without (docs/measured/pruning.md).
        network_iterations: of repair of the whole network by its outputs, where features do not suffice; 0 leaves it out, None is as many as `for_images` says.
        feature_iterations: of repair of a classifier by its features; 0 leaves it out, None is as many as by outputs.
        batch: images in an iteration, 1..
        lr_blocks: of Adam, in root mean squares of a filter; above 0.
        lr_network: the same, for the whole network; None is what `for_images` says.
        temperature: of the class scores that the whole network learns; above 0.
        seed: of what images and views are drawn.

    Raises:
        InputError: for a budget that is none, an unknown choice, a granule or a batch below 1, iterations below 0, or
            a learning rate or a temperature that is not above 0.
    """

    budget: str = "1.5x"
    score: Score = "divergence"
    allocation: Allocation = "loss-per-cost"
    granule: int = 8
    closed_form: bool = True
    block_iterations: int = 0
    network_iterations: int | None = None
    feature_iterations: int | None = None
    batch: int = 32
    lr_blocks: float = 0.003
    lr_network: float | None = None
    temperature: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        parse_budget(str(self.budget))
        check_choice(self.score, get_args(Score), "score of channels")
        check_choice(self.allocation, get_args(Allocation), "allocation of channels")
        counts = ("block_iterations", "network_iterations", "feature_iterations")
        for name, least in (("granule", 1), ("batch", 1), *((name, 0) for name in counts)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} must be {least} or more, not {value}.")
        for name in ("lr_blocks", "lr_network", "temperature"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}.")

    def for_images(self, height: int, width: int) -> "PruneConfig":
        """Return the same with what images of this size allow for the whole network: 1,000 iterations for up to 64 pixels a side, else 150, and these at a
        fifth of the learning rate. Large images are few.

        Example:
            >>> small, large = PruneConfig().for_images(32, 32), PruneConfig().for_images(224, 224)
            >>> (small.network_iterations, small.lr_network), (large.network_iterations, large.lr_network)
            ((1000, 0.005), (150, 0.001))
        """
        small = max(height, width) <= SMALL
        network = self.network_iterations
        if network is None:
            network = 1000 if small else 150
        features = network if self.feature_iterations is None else self.feature_iterations
        # EfficientNet-Lite0 gains a point in 30 iterations at 0.001, and nothing at 0.003 (docs/measured/pruning.md).
        lr = (0.005 if small else 0.001) if self.lr_network is None else self.lr_network
        return replace(self, network_iterations=network, feature_iterations=features, lr_network=lr)
