"""Charts as SVG: inside a page they take its colors and its fonts, so that they follow light and dark.

matplotlib draws with stand-ins for colors, which become CSS variables, or plain colors in a file of its own. What a
chart is called stands in the page and never in the drawing: nothing that a user named can get into it.
"""

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from ptq.analysis.distributions import Histogram
from ptq.utils.units import short_text

__all__ = [
    "BLUE",
    "INK",
    "LINE",
    "MUTED",
    "ORANGE",
    "SURFACE",
    "Point",
    "histogram",
    "loss_curves",
    "over_epochs",
    "page_svg",
    "tradeoff",
    "tradeoff_file",
]

# Stand-ins -> names of variables in page.css, and the colors of a file of its own.
INK, MUTED, LINE, SURFACE, BLUE, ORANGE = (f"#0a0b{i:02x}" for i in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface", BLUE: "blue", ORANGE: "orange"}
_PLAIN = {INK: "#1d2129", MUTED: "#5b6472", LINE: "#d9dde3", SURFACE: "#ffffff", BLUE: "#2563b8", ORANGE: "#b4540a"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ptq",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_WIDTH, _HEIGHT = 290.0, 190.0  # of the axes in a chart of scores, about
_MOST_DOTS = 20  # that do not run into a line
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


def histogram(data: Histogram, unit: str, levels: int, mark: str) -> str:
    """Draw a histogram: shares on a log scale, the grid's levels, and what lies beyond.

    Args:
        data: of a weight or of what a layer reads.
        unit: of the numbers, in words.
        levels: of the grid; drawn where they can be told apart.
        mark: tells the ids in it from those of other drawings on the page.
    """

    def draw(axes: Axes) -> None:
        counts, low, high = data.counts, data.low, data.high
        total, width = max(1, sum(counts)), (high - low) / len(counts)
        inside = data.grid_low - data.step / 2, data.grid_high + data.step / 2
        floor = min([count for count in counts if count] or [1]) / total / 2
        edges = [low + i * width for i in range(len(counts) + 1)]
        for color, beyond in ((BLUE, False), (ORANGE, True)):
            shares = [
                max(floor, count / total) if beyond != (inside[0] <= left + width / 2 <= inside[1]) else floor
                for count, left in zip(counts, edges, strict=False)
            ]
            axes.stairs(shares, edges, baseline=floor, fill=True, color=color, linewidth=0)
        axes.set_yscale("log")
        axes.set_ylim(floor, 2.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{short_text(100 * y)} %"))
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.minorticks_off()
        if levels <= _MOST_LEVELS:
            at = [data.grid_low + i * data.step for i in range(levels)]
            # Below the axis, where bars do not hide them.
            foot = axes.get_xaxis_transform()
            axes.vlines(at, -0.06, 0, INK, linewidth=1, transform=foot, clip_on=False)
        axes.tick_params(axis="x", length=0, pad=8)
        for end in (data.grid_low, data.grid_high):
            axes.axvline(end, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        pad = (high - low) / 60
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel(unit)

    return page_svg(draw, 215, 150, mark)


def loss_curves(curves: Sequence[Sequence[float]], mark: str) -> str:
    """Draw the losses of a block's descents one after the other, relative to their beginnings.

    Args:
        curves: of a `ptq.BlockResult`; at least one, none of them empty.
        mark: tells the ids in it from those of other drawings on the page.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for index, curve in enumerate(curves):
            x = [index + (i + 1) / len(curve) for i in range(len(curve))]
            axes.plot(x, list(curve), color=BLUE, linewidth=1.6)
            if index:
                axes.axvline(index, color=LINE, linewidth=1)
        axes.set_xlim(0, len(curves))
        # All charts of a page have 1 in them and begin at 0: how much was gained can be compared.
        most = max(1.0, *(value for curve in curves for value in curve))
        axes.set_ylim(0, 1.1 * most)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]) if most < 1.5 else MaxNLocator(3))
        axes.set_xticks([0, len(curves) / 2, len(curves)])
        axes.xaxis.set_major_formatter(PercentFormatter(len(curves), decimals=0, symbol=" %"))

    return page_svg(draw, 165, 105, mark)


def over_epochs(points: Sequence[tuple[int, float]], mark: str) -> str:
    """Draw a figure over the epochs of learning.

    Args:
        points: number of an epoch, 1.., and the figure after it; at least one.
        mark: tells the ids in it from those of other drawings on the page.
    """

    def draw(axes: Axes) -> None:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "o-" if len(points) < _MOST_DOTS else "-", color=BLUE, linewidth=1.6, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch")

    return page_svg(draw, 290, 180, mark)


def tradeoff(points: Sequence[Point], cost: str, score: str) -> str:
    """Draw scores over costs, for a page.

    Args:
        points: at least one.
        cost, score: what the axes show, in words.
    """
    return page_svg(lambda axes: _draw_tradeoff(axes, points, cost, score), 340, 240, cost)


def tradeoff_file(panels: Mapping[str, Sequence[Point]], score: str) -> str:
    """Return charts of scores over several costs as the text of one SVG file.

    Args:
        panels: name of the cost -> points.
        score: what all vertical axes show, in words.
    """
    with matplotlib.rc_context({**_STYLE, "svg.fonttype": "path", "figure.facecolor": SURFACE}):
        figure = Figure(figsize=(340 * len(panels) / 72, 240 / 72), layout="constrained")
        for index, (cost, points) in enumerate(panels.items()):
            _draw_tradeoff(figure.add_subplot(1, len(panels), index + 1), points, cost, score)
        text = _written(figure)
    for stand_in, color in _PLAIN.items():
        text = text.replace(stand_in, color)
    return text


def _draw_tradeoff(axes: Axes, points: Sequence[Point], cost: str, score: str) -> None:
    costs, scores = [p.cost for p in points], [p.score for p in points]
    most, spread = max(costs) or 1.0, (max(scores) - min(scores)) or 1.0
    x, y = ((-0.04 * most, 1.15 * most), (min(scores) - spread / 6, max(scores) + spread / 6))
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    centers = [(_WIDTH * (p.cost - x[0]) / (x[1] - x[0]), _HEIGHT * (p.score - y[0]) / (y[1] - y[0])) for p in points]
    labels = _labels(points, centers)
    for point, label, place in zip(points, labels, _places(labels, centers), strict=True):
        fill, edge = (SURFACE, MUTED) if point.reference else (BLUE, BLUE)
        axes.plot(
            point.cost,
            point.score,
            "o",
            markersize=7,
            markerfacecolor=fill,
            markeredgecolor=edge,
            markeredgewidth=1.5,
            zorder=3,
        )
        axes.annotate(
            label,
            (point.cost, point.score),
            place,
            ha="center",
            va="center",
            textcoords="offset points",
            color=MUTED if point.reference else INK,
            zorder=4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    # Room above 100 % is for labels: there is nothing to be had.
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*y)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if y[0] <= tick <= min(100, y[1])]))
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(cost)
    axes.set_ylabel(score)


def _labels(points: Sequence[Point], centers: Sequence[tuple[float, float]]) -> list[str]:
    """What stands beside each point: of references that lie on each other, measured in several runs, only the first."""
    labels: list[str] = []
    for at, (point, (x, y)) in enumerate(zip(points, centers, strict=True)):
        again = any(
            one.reference and point.reference and one.label == point.label and math.dist(place, (x, y)) < 20
            for one, place in zip(points[:at], centers, strict=False)
        )
        labels.append("" if again else _clipped(point.label))
    return labels


def _places(labels: Sequence[str], centers: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each label stands from its point: within the axes, and few of them over another or a point."""
    taken = [(x - 5, x + 5, y - 5, y + 5) for x, y in centers]
    places = []
    for label, (x, y) in zip(labels, centers, strict=True):
        half = 3.2 * len(label)
        middle = max(half, min(_WIDTH - half, x))
        boxes = {up: (middle - half, middle + half, y + up - 5.5, y + up + 5.5) for up in (12.0, -12.0, 24.0, -24.0)}
        free = [up for up, box in boxes.items() if not any(_meet(box, other) for other in taken)]
        up = (free or [12.0])[0]
        places.append((middle - x, up))
        taken.append(boxes[up])
    return places


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _clipped(label: str, most: int = 22) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def page_svg(draw: Callable[[Axes], None], width: float, height: float, mark: str) -> str:
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
    # Fewer digits where they place something; what stands between tags is for people, and stays.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    for stand_in, name in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{name})")
    prefix = f"c{hashlib.sha256(mark.encode()).hexdigest()[:10]}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text.strip())


def _written(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
