"""How small a network becomes before it is quantized, as a part of the settings."""

from dataclasses import dataclass

from ptq.config.budgets import parse_factor, parse_milliseconds, parse_share
from ptq.config.choices import Allocation, Arithmetic, Score
from ptq.config.ranges import Count, Positive, Rate
from ptq.errors import InputError

__all__ = ["PruningSettings"]


@dataclass(frozen=True)
class PruningSettings:
    """How small the network becomes before it is quantized; at most one budget, and without one no channel goes.

    Args:
        macs: how many times fewer multiply-accumulates, "1.5x".
        parameters: the share of them that stays, "60%".
        latency: of one image in onnxruntime, measured on this machine, "3ms".
        latency_of: the network in "int8" or in "float"; None is what the command writes.

    The others are fields of `ptq.PruneConfig`, which says what they are; None is its default.

    Raises:
        InputError: for a budget that is none, and for two.
    """

    macs: str | None = None
    parameters: str | None = None
    latency: str | None = None
    latency_of: Arithmetic | None = None
    score: Score | None = None
    allocation: Allocation | None = None
    granule: Positive | None = None
    closed_form: bool | None = None
    block_iterations: Count | None = None
    network_iterations: Count | None = None
    feature_iterations: Count | None = None
    batch: Positive | None = None
    lr_blocks: Rate | None = None
    lr_network: Rate | None = None
    temperature: Rate | None = None

    def __post_init__(self) -> None:
        given = {option: text for option, text in zip(_BUDGETS, self._budgets(), strict=True) if text is not None}
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are two budgets for one network: give one of them.")
        for option, text in given.items():
            try:
                _BUDGETS[option](text)
            except InputError as error:
                raise InputError(f"{option}: {error}") from error

    @property
    def budget(self) -> str | None:
        """The budget that is given; None where no channel goes."""
        return next((text for text in self._budgets() if text is not None), None)

    def _budgets(self) -> tuple[str | None, ...]:
        return self.macs, self.parameters, self.latency


_BUDGETS = {"--prune": parse_factor, "--keep": parse_share, "--prune-to": parse_milliseconds}
