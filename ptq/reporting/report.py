"""What a run of `ptq quantize` found out, as one typed object: pages and messages are made from it, and report.json is it as JSON."""

from dataclasses import dataclass
from typing import Any, Self

from ptq.allocation.results import Allocation, Alternative
from ptq.analysis.distributions import LayerDistribution
from ptq.errors import InputError
from ptq.pruning.results import PruneResult
from ptq.reconstruction.results import BlockResult, FinetuneResult
from ptq.reporting.facts import RunFacts

__all__ = ["VERSION", "CachePeak", "Report"]

VERSION = 1
"""Of the keys of report.json and what they mean."""


@dataclass(frozen=True)
class CachePeak:
    """The most activations that reconstruction kept, in bytes: in memory and on disk."""

    memory: int
    disk: int


@dataclass(frozen=True)
class Report(RunFacts):
    """Everything that a run found out: what every kind of run knows, and of quantization:

    Args:
        peak_rss_bytes: the largest resident memory of the process.
        peak_activations_bytes: the most activations that reconstruction kept.
        blocks: what reconstruction did to each, in order of computation.
        bits: layer -> bits of its weights.
        activation_bits: quantizer -> bits of its activations.
        notes: what people must know, a sentence each.
        worst_layers: the numbers of those that lose most by themselves.
        command: the line of shell that asks for it.
        seed: of everything random.
        pruning: which channels were removed before quantization, and what that cost; None where none were.
        finetuning: what fine-tuning the whole network brought; None where there was none.
        allocation: the bits that were chosen for a budget; None where none was given.
        alternative: what a file of the same size could hold; None where it was not measured.
        version: of report.json's keys.
    """

    file = "report.json"
    peak_rss_bytes: int
    peak_activations_bytes: CachePeak
    blocks: tuple[BlockResult, ...]
    bits: dict[str, int]
    activation_bits: dict[str, int]
    notes: tuple[str, ...]
    worst_layers: tuple[LayerDistribution, ...]
    command: str
    seed: int
    pruning: PruneResult | None = None
    finetuning: FinetuneResult | None = None
    allocation: Allocation | None = None
    alternative: Alternative | None = None
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json."""
        return {"version": self.version, **super().to_json()}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return the report that `to_json` gave.

        Raises:
            InputError: when something is missing, or of another type or version.
        """
        if isinstance(data, dict) and data.get("version") != VERSION:
            raise InputError(f"it is of another version than {VERSION}")
        return super().from_json(data)
