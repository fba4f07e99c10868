"""What an inspection says, for people: tables of layers and blocks, and what to do about the worst."""

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from ptq.allocation.solver import frontier
from ptq.analysis.sensitivity import BlockSensitivity, LayerSensitivity, Sensitivity
from ptq.config.choices import MAX_BITS
from ptq.config.flat_options import pattern_texts
from ptq.reporting.bits import activations_text, frontier_table, weights_text
from ptq.reporting.inspection import Inspection
from ptq.reporting.tables import Table
from ptq.reporting.text import image_lines
from ptq.utils.files import atomic
from ptq.utils.units import decibel_text, nats_text, number_text, percent_text, range_text

__all__ = ["advice", "headlines", "legend", "markdown", "print_inspection", "tables", "write_inspection"]

NEGLIGIBLE = 1e-3  # nats by which the softmax may move, or a share of other outputs, without anybody seeing it
MOST = 5  # layers that advice names


def headlines(found: Inspection) -> list[str]:
    """Return what was inspected, on which images, and what quantization costs as a whole."""
    bits, (noun, *others) = found.settings.quantization, image_lines(found.images)
    lines = [
        f"{found.name}: {weights_text(bits)}, {activations_text(bits)}",
        f"ranges from {noun}; measured on {found.latest.images} of them",
        *others,
    ]
    for label, state in _states(found):
        cost = state.network
        lines.append(
            f"everything quantized{label and f', {label} reconstruction'}: {_moved(state)}, and they have "
            f"{decibel_text(cost.sqnr)} dB"
        )
    if _is_noise(found):
        better = (
            "give --images the images.safetensors of ptq synthesize"
            if found.after is None
            else "quantize with synthesized ones"
        )
        lines.append(f"these images are noise: ranges mean little and costs are a first guess; {better}")
    return lines


def tables(found: Inspection, top: int | None = None) -> list[Table]:
    """Return the layers by cost, their ranges, the blocks in order of computation, and the frontier where it was measured.

    Args:
        found: any inspection.
        top: how many layers; None for all.
    """
    ranked = _ranked(found.latest)[:top]
    some = len(ranked) < len(found.latest.layers)
    title = (
        "The layer that costs most"
        if len(ranked) == 1
        else f"{f'{len(ranked)} layers' if some else 'Layers'} that cost most"
    )
    return [
        Table(title, *_costs(found, ranked)),
        Table("What they hold, and what their grids reach", *_ranges(found, ranked)),
        Table("Blocks, in order of computation", *_blocks(found)),
        *([] if found.tradeoffs is None else [frontier_table(frontier(found.tradeoffs))]),
    ]


def legend(found: Inspection) -> list[str]:
    """Return what the columns mean."""
    lines = [
        f"cost: {_UNITS[found.latest.unit]} when only this one is quantized; costs do not add up",
        "isolated: signal to quantization noise in dB of its output then; cumulative: the same with everything "
        "before it quantized",
        "W/A: bits of the weight and of what the layer reads; clip: % of its numbers beyond the grid; W dB: of "
        "the weight itself",
    ]
    if found.after is not None:
        lines.append(
            "reconstruction tunes a block as a whole, and makes good for the blocks before it: a layer, or its weight, "
            "may have fewer dB by itself than before"
        )
    return lines


def advice(found: Inspection) -> str:
    """Return what to do about the layers that cost most, in a sentence or two."""
    latest = found.latest
    if latest.network.loss < NEGLIGIBLE:
        return f"Nothing stands out: with everything quantized {_moved(latest)}."
    worst, share = _worst(latest)
    if not worst:
        return "No layer costs anything by itself: look at the blocks."
    one = len(worst) == 1
    text = [
        f"{worst[0].name if one else f'{len(worst)} of {len(latest.layers)} layers'} "
        f"{'carries' if one else 'carry'} {percent_text(100 * share, 0)} of what layers cost one by one."
    ]
    coarse = [layer for layer in worst if not _by_input(layer) and layer.weight.bits < MAX_BITS]
    narrow = [layer for layer in worst if _by_input(layer) and _input_bits(layer) < MAX_BITS]
    if coarse:
        layers = {**found.settings.quantization.layers, **{layer.name: MAX_BITS for layer in coarse}}
        text.append(
            f"With {MAX_BITS} bits for the weights there the file is not slower: "
            f"{' '.join(f'--layer {shlex.quote(one)}' for one in pattern_texts(layers))}."
        )
    if narrow:
        text.append(f"In {', '.join(layer.name for layer in narrow)} most noise is the input's: raise --act-bits.")
    if not coarse and not narrow:
        text.append(f"There {MAX_BITS} bits are in use already: other calibration images are left to try.")
    return " ".join(text)


def markdown(found: Inspection) -> str:
    """Return an inspection as a Markdown page, with every layer."""
    title, *lines = headlines(found)
    parts = [
        f"# {title}",
        "\n".join(f"- {line}" for line in lines),
        *(table.markdown() for table in tables(found)),
        "\n".join(f"- {line}" for line in legend(found)),
        advice(found),
    ]
    return "\n\n".join(parts) + "\n"


def print_inspection(found: Inspection, top: int | None = None, console: Console | None = None) -> None:
    """Print what `markdown` holds, with the `top` layers."""
    console = console or Console()

    def say(lines: Iterable[str]) -> None:
        for line in lines:  # a terminal wraps them, and what is in them can be copied whole
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    say(["", *headlines(found)])
    for table in tables(found, top):
        console.print("", table.drawn())
    say(["", *legend(found), "", advice(found)])


def write_inspection(found: Inspection, folder: Path | None = None, file: Path | None = None) -> list[Path]:
    """Write what was found, each file atomically; returns their paths.

    Args:
        found: any inspection.
        folder: gets inspect.md, and inspect.json where `file` is not given.
        file: gets all figures and the advice, as JSON.
    """
    file = file or (folder and folder / "inspect.json")
    texts: dict[Path, str] = {}
    if folder is not None:
        texts[folder / "inspect.md"] = markdown(found)
    if file is not None:
        data = {**found.to_json(), "advice": advice(found)}
        texts[file] = json.dumps(data, indent=2, allow_nan=False) + "\n"
    for path, text in texts.items():
        with atomic(path) as temporary:
            temporary.write_text(text)
    return list(texts)


def _states(found: Inspection) -> list[tuple[str, Sensitivity]]:
    if found.after is None:
        return [("", found.before)]
    return [("before", found.before), ("after", found.after)]


def _moved(state: Sensitivity) -> str:
    """How far the outputs move with everything quantized."""
    return f"the outputs move by {nats_text(state.network.loss)} {state.unit}".rstrip()


def _is_noise(found: Inspection) -> bool:
    return "noise" in found.images.source


def _ranked(state: Sensitivity) -> list[LayerSensitivity]:
    return sorted(state.layers, key=lambda layer: -layer.cost.loss)


def _worst(state: Sensitivity) -> tuple[list[LayerSensitivity], float]:
    """The fewest layers that carry half of the summed costs, and the share that they carry."""
    total, carried, worst = sum(layer.cost.loss for layer in state.layers), 0.0, []
    for layer in _ranked(state)[:MOST]:
        if carried >= total / 2:
            break
        worst.append(layer)
        carried += layer.cost.loss
    return worst, carried / total if total else 0.0


def _by_input(layer: LayerSensitivity) -> bool:
    return layer.isolated_input < layer.isolated_weight


def _input_bits(layer: LayerSensitivity) -> int:
    return MAX_BITS if layer.input is None else layer.input.bits


_UNITS = {
    "nats": "nats (Kullback-Leibler) by which the softmax moves",
    "of the cosine": "by how much the cosine to the float output is less than 1",
    "of the variance": "squared error of the outputs, as a share of their variance,",
    "of the numbers": "share of the outputs' numbers that are others",
    "": "losses of all outputs, added up,",
}
"""What the loss of a task is, by its unit."""

Cells = tuple[Sequence[str], Sequence[Sequence[str]]]


def _costs(found: Inspection, ranked: Sequence[LayerSensitivity]) -> Cells:
    states = _states(found)
    head = ["layer", "W/A", *_figure_heads(found)]
    by_name = [{layer.name: layer for layer in state.layers} for _, state in states]
    rows = [[layer.name, _bits(layer), *_figures([layers[layer.name] for layers in by_name])] for layer in ranked]
    return head, rows


def _blocks(found: Inspection) -> Cells:
    head = ["block", "layers", *_figure_heads(found)]
    rows = [
        [block.name, str(len(block.layers)), *_figures([state.blocks[i] for _, state in _states(found)])]
        for i, block in enumerate(found.latest.blocks)
    ]
    return head, rows


def _figure_heads(found: Inspection) -> list[str]:
    names = ("cost", "isolated", "cumulative")
    return [f"{name} {label}".strip() for name in names for label, _ in _states(found)]


def _figures(states: Sequence[LayerSensitivity | BlockSensitivity]) -> list[str]:
    """Cost, isolated SQNR and cumulative SQNR, each in every state."""
    return [
        *[nats_text(it.cost.loss) for it in states],
        *[decibel_text(it.isolated) for it in states],
        *[decibel_text(it.cumulative) for it in states],
    ]


def _ranges(found: Inspection, ranked: Sequence[LayerSensitivity]) -> Cells:
    states = _states(found)
    head = ["layer", "weight range", "clip %", "W dB", "input range"]
    head += [f"grid {label}".strip() for label, _ in states] + ["clip %"]
    by_name = [{layer.name: layer for layer in state.layers} for _, state in states]
    rows = []
    for layer in ranked:
        weight, read = layer.weight, layer.input
        inputs = [layers[layer.name].input for layers in by_name]
        rows.append(
            [
                layer.name,
                range_text(weight.low, weight.high),
                number_text(100 * weight.clipped),
                decibel_text(layer.weight_sqnr),
                "float" if read is None else range_text(read.low, read.high),
                *["" if it is None else range_text(it.grid_low, it.grid_high) for it in inputs],
                "" if read is None else number_text(100 * read.clipped),
            ]
        )
    return head, rows


def _bits(layer: LayerSensitivity) -> str:
    return f"{layer.weight.bits}/{'float' if layer.input is None else layer.input.bits}"
