"""Charts of bits that were chosen for a budget: those of every layer, and what files of other sizes could hold."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator

from ptq.allocation.results import Point
from ptq.reporting.html.plots import BLUE, INK, LINE, MUTED, ORANGE, SURFACE, page_svg
from ptq.utils.units import short_text

__all__ = ["draw_bits", "draw_frontier"]

SMALLEST = 1e-9  # a share of the output that a chart of decades still shows


def draw_bits(bits: Sequence[int]) -> str:
    """Draw the bits of every layer as a bar, in order of computation.

    Args:
        bits: of every layer; at least one.
    """

    def draw(axes: Axes) -> None:
        for width, color in ((8, LINE), (4, BLUE), (2, ORANGE)):
            at = [i for i, count in enumerate(bits) if _shade(count) == width]
            axes.bar(at, [bits[i] for i in at], width=0.8, color=color, linewidth=0)
        axes.set_xlim(-0.6, len(bits) - 0.4)
        axes.set_ylim(0, 8.4)
        axes.yaxis.set_major_locator(FixedLocator([2, 4, 8]))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x + 1:.0f}"))
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("layer")
        axes.set_ylabel("bits")

    return page_svg(draw, 420, 240, "bits of layers")


def draw_frontier(points: Sequence[Point], size: int, predicted: float, measured: float) -> str:
    """Draw the error of the output over the size of the file, with what was chosen.

    Args:
        points: of the frontier; at least one.
        size: of the file that was chosen, in bytes.
        predicted, measured: its error, as a share of the output.
    """

    def draw(axes: Axes) -> None:
        sizes, harms = [p.size / 1e6 for p in points], [max(SMALLEST, p.harm) for p in points]
        axes.plot(sizes, harms, color=BLUE, linewidth=1.6, marker="o", markersize=4, zorder=2)
        at = size / 1e6
        axes.plot(at, max(SMALLEST, predicted), "o", markersize=8, color=BLUE, zorder=3)
        axes.plot(
            at, max(SMALLEST, measured), "o", markersize=8, markerfacecolor=SURFACE, markeredgecolor=INK, zorder=4
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{short_text(100 * y)} %"))
        axes.minorticks_off()
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("size of the file, MB")
        axes.set_ylabel("error of the output", color=MUTED)

    return page_svg(draw, 420, 240, "frontier")


def _shade(bits: int) -> int:
    """The container that bits lie in."""
    return next(width for width in (2, 4, 8) if bits <= width)
