"""What a report says of pruning, in words and rows that several pages share."""

from collections.abc import Sequence

from ptq.pruning.results import PruneResult
from ptq.reporting.tables import Table
from ptq.utils.units import count_text, decibel_text, number_text, percent_text, short_text, thread_text

__all__ = [
    "channel_rows",
    "channel_table",
    "cost_rows",
    "judged_on",
    "pruning_lines",
    "repair_lines",
    "repair_rows",
    "repair_table",
]

_STEPS = {
    "removal": "channels removed",
    "closed form": "layers in closed form",
    "blocks": "block by block",
    "features": "whole network, by features",
    "outputs": "whole network, by outputs",
}
NAMED = 6  # layers of one reason
LESS = ("pruned", "simulated", "onnx", "quantize_static", "openvino")
"""The networks that channels were removed from."""


def cost_rows(found: PruneResult | None, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return multiply-accumulates and parameters as text: a name and a cell for each column; nothing without pruning."""
    if found is None:
        return []
    rows = (("multiply-accumulates", found.macs), ("parameters", found.parameters))
    return [(name, *(count_text(costs[column in LESS]) for column in columns)) for name, costs in rows]


def pruning_lines(found: PruneResult | None) -> list[str]:
    """Return what pruning did, a line each; nothing where there was none."""
    if found is None:
        return []
    (macs, fewer_macs), (parameters, fewer) = found.macs, found.parameters
    lines = [
        f"{number_text(macs / max(fewer_macs, 1))} times fewer multiply-accumulates: {count_text(macs)} before, "
        f"{count_text(fewer_macs)} after",
        f"{percent_text(100 * fewer / max(parameters, 1), 0)} of the parameters: {count_text(parameters)} before, "
        f"{count_text(fewer)} after",
    ]
    if (search := found.search) is not None:
        tried = ", ".join(f"{number_text(ms)} ms at {number_text(factor)}x" for factor, ms in search.tried)
        lines.append(
            f"{search.limit:g} ms were asked for, in {search.of}, {thread_text(search.threads)}: measured {tried}; "
            f"--prune {search.factor:g}x makes this network again"
        )
    for reason in dict.fromkeys(found.fixed.values()):
        names = [name for name, why in found.fixed.items() if why == reason]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"kept whole: {', '.join(names[:NAMED])}{more} ({reason})")
    return lines


def repair_lines(found: PruneResult | None) -> list[str]:
    """Return what repair brought, as one line; nothing where there was no pruning."""
    if found is None:
        return []
    agreement = ", ".join(
        f"{_STEPS.get(step.name, step.name)} {percent_text(step.agreement, 1)}" for step in found.steps
    )
    return [f"agreement with float {judged_on(found)}: {agreement}"]


def judged_on(found: PruneResult) -> str:
    """Return which images the steps of repair are judged by.

    Every figure of a step is of these.
    """
    learned, apart = found.images
    return f"on {apart} images that repair has not learned from, and views of them ({learned} others taught it)"


def repair_rows(found: PruneResult) -> list[tuple[str, ...]]:
    """Return what each step of repair brought, as text: its name, agreement in percent, loss, decibels, seconds.

    All but the seconds are measured on images that no step has learned from.
    """
    return [
        (
            _STEPS.get(step.name, step.name) + ("" if step.kept else " (brought too little, taken back)"),
            number_text(step.agreement),
            short_text(step.loss),
            decibel_text(step.decibels),
            number_text(step.seconds, 1),
        )
        for step in found.steps
    ]


def channel_rows(found: PruneResult) -> list[tuple[str, int, int]]:
    """Return the layers whose outputs can go: name, channels before and after."""
    return [(layer.name, *layer.outputs) for layer in found.layers if layer.name not in found.fixed]


def channel_table(found: PruneResult | None) -> str:
    """Return the channels that layers write, as a Markdown table; empty without pruning."""
    if found is None:
        return ""
    rows = [(name, str(before), str(after)) for name, before, after in channel_rows(found)]
    return Table("", ("layer", "channels before", "after"), rows).markdown()


def repair_table(found: PruneResult | None) -> str:
    """Return what each step of repair brought, as a Markdown table; empty without pruning."""
    if found is None:
        return ""
    head = ("step", "agreement with float (%)", "loss", "signal to noise (dB)", "seconds")
    return f"What each step brought, {judged_on(found)}.\n\n{Table('', head, repair_rows(found)).markdown()}"
