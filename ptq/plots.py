"""Charts as SVG: inside a page they take its colours and its fonts, so that they follow light and dark.

matplotlib draws with stand-ins for colours, which become CSS variables, or plain colours in a file of its own. What a
chart is called stands in the page and never in the drawing: nothing that a user named can get into it.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

__all__ = ["Point", "histogram", "loss_curves", "tradeoff", "tradeoff_file"]

# Stand-ins -> names of variables in page.css, and the colours of a file of its own.
INK, MUTED, LINE, SURFACE, BLUE, ORANGE = (f"#0a0b{i:02x}" for i in range(1, 7))
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface", BLUE: "blue", ORANGE: "orange",
}  # fmt: skip
_PLAIN = {
    INK: "#1d2129", MUTED: "#5b6472", LINE: "#d9dde3", SURFACE: "#ffffff", BLUE: "#2563b8",
    ORANGE: "#b4540a",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ptq", "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "font.size": 10.5, "text.parse_math": False, "text.color": INK, "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 1.0, "axes.labelsize": 10.5, "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip
_MOST_LEVELS = 33  # that can be told apart in a small chart


@dataclass(frozen=True)
class Point:
    """A network in a chart of what accuracy costs.

    Args:
        label: short; drawn beside the point.
        cost: bytes, milliseconds, ...
        score: in %.
        reference: whether it is what the others are compared with.
    """

    label: str
    cost: float
    score: float
    reference: bool = False


def histogram(data: Mapping[str, Any], unit: str, levels: int) -> str:
    """Draw a `ptq.distributions.Histogram`: shares on a log scale, the grid's levels, and what lies beyond.

    Args:
        data: its fields.
        unit: of the numbers, in words.
        levels: of the grid; drawn where they can be told apart.
    """

    def draw(axes: Axes) -> None:
        counts, low, high = data["counts"], data["low"], data["high"]
        total, width = max(1, sum(counts)), (high - low) / len(counts)
        inside = data["grid_low"] - data["step"] / 2, data["grid_high"] + data["step"] / 2
        floor = min([count for count in counts if count] or [1]) / total / 2
        edges = [low + i * width for i in range(len(counts) + 1)]
        for colour, beyond in ((BLUE, False), (ORANGE, True)):
            shares = [
                max(floor, count / total)
                if beyond != (inside[0] <= left + width / 2 <= inside[1])
                else floor
                for count, left in zip(counts, edges, strict=False)
            ]
            axes.stairs(shares, edges, baseline=floor, fill=True, color=colour, linewidth=0)
        axes.set_yscale("log")
        axes.set_ylim(floor, 2.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.minorticks_off()
        if levels <= _MOST_LEVELS:
            at = [data["grid_low"] + i * data["step"] for i in range(levels)]
            # Ticks within the axes, at its foot: lines through all of it would hide the bars.
            axes.vlines(at, 0, 0.07, INK, linewidth=1, transform=axes.get_xaxis_transform())
        for end in (data["grid_low"], data["grid_high"]):
            axes.axvline(end, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        pad = (high - low) / 60
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(unit)

    return _page_svg(draw, 270, 165)


def loss_curves(curves: Sequence[Sequence[float]]) -> str:
    """Draw the losses of a block's descents one after the other, relative to nearest rounding.

    Args:
        curves: of a `ptq.reconstruction.BlockResult`; at least one, none of them empty.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for index, curve in enumerate(curves):
            x = [index + (i + 1) / len(curve) for i in range(len(curve))]
            axes.plot(x, list(curve), color=BLUE, linewidth=1.6)
            if index:
                axes.axvline(index, color=LINE, linewidth=1)
        axes.set_xlim(0, len(curves))
        axes.set_ylim(0, 1.15 * max(1e-9, *(value for curve in curves for value in curve)))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_xticks([0, len(curves) / 2, len(curves)])
        axes.xaxis.set_major_formatter(PercentFormatter(len(curves), decimals=0, symbol=" %"))

    return _page_svg(draw, 190, 110)


def tradeoff(points: Sequence[Point], cost: str, score: str) -> str:
    """Draw scores over costs, for a page.

    Args:
        points: at least one.
        cost, score: what the axes show, in words.
    """
    return _page_svg(lambda axes: _draw_tradeoff(axes, points, cost, score), 420, 280)


def tradeoff_file(panels: Mapping[str, Sequence[Point]], score: str) -> str:
    """Return charts of scores over several costs as the text of one SVG file.

    Args:
        panels: name of the cost -> points.
        score: what all vertical axes show, in words.
    """
    with matplotlib.rc_context({**_STYLE, "svg.fonttype": "path", "figure.facecolor": SURFACE}):
        figure = Figure(figsize=(420 * len(panels) / 72, 280 / 72), layout="constrained")
        for index, (cost, points) in enumerate(panels.items()):
            _draw_tradeoff(
                figure.add_subplot(1, len(panels), index + 1), points, cost, score, limit=24
            )
        text = _written(figure)
    for stand_in, colour in _PLAIN.items():
        text = text.replace(stand_in, colour)
    return text


def _draw_tradeoff(
    axes: Axes, points: Sequence[Point], cost: str, score: str, limit: int = 18
) -> None:
    for point in points:
        fill = SURFACE if point.reference else BLUE
        edge = MUTED if point.reference else BLUE
        axes.plot(
            point.cost, point.score, "o", markersize=7, markerfacecolor=fill, markeredgecolor=edge,
            markeredgewidth=1.5, clip_on=False,
        )  # fmt: skip
        label = point.label if len(point.label) <= limit else f"{point.label[: limit - 1]}…"
        axes.annotate(
            label, (point.cost, point.score), (0, 7), textcoords="offset points", ha="center",
            color=INK if not point.reference else MUTED,
        )  # fmt: skip
    axes.margins(x=0.2, y=0.2)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(cost)
    axes.set_ylabel(score)


def _page_svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
    """A chart of so many CSS pixels, as an element of a page."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.add_subplot())
        text = _written(figure)
    text = text[text.index("<svg") :]
    unused = r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|font-family:[^;"]*;|(?<=<g) id="[^"]*"'
    text = re.sub(unused, "", text, flags=re.DOTALL)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" aria-hidden="true">'
    text = re.sub(r"<svg[^>]*>", head, text, count=1).replace("xlink:href", "href")
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", re.sub(r"\s*\n\s*", "\n", text))
    for stand_in, name in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{name})")
    return _own_ids(text.strip())


def _own_ids(text: str) -> str:
    """Ids that no other drawing of a page has."""
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>c{mark}-", text)


def _written(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
