"""How time grows with images, iterations and blocks, and what reconstruction keeps in memory where there is a limit.

    python -m benchmarks.linearity [--scale 1.0]

- Synthesis of 64 to 1,024 images of 32x32 from CIFAR's ResNet-20 with random weights, 20 steps.
- Reconstruction at W4A4: of 64 to 1,024 images, of 25 to 400 iterations, of 2 to 16 blocks. The network is a chain of basic
  blocks of 16 channels at 32x32, with random weights. What is not varied is 128 images, 50 iterations and 4 blocks.
- Memory of that with 64 to 1,024 images and a limit of 16 MiB for activations: what is kept of them in memory and on disk, and how much memory that
  no file stands for the process takes beyond what it had before.

A straight line is fitted to each; what is told is the largest distance from it, in percent of the line. --scale 0.2 tries it in small. Writes results/linearity.{json,md}
and docs/linearity.svg. Nothing else should run on the machine. It takes some 3 minutes.
"""

import argparse
import ctypes
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.rows import Rows, footer, write_rows
from ptq.calibration import SynthesisConfig, calibrate, synthesize
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import as_model, load_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.loop import reconstruct
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.environment import environment

PICTURE = Path(__file__).parents[1] / "docs" / "linearity.svg"
SHAPE = (3, 32, 32)
IMAGES = (64, 128, 256, 512, 1024)
ITERATIONS = (25, 50, 100, 200, 400)
BLOCKS = (2, 4, 8, 16)
USUAL = {"images": 128, "iterations": 50, "blocks": 4}
STEPS = 20
LIMIT = 16 << 20
MIB = 1 << 20
PANELS = (
    ("synthesis", "images", "seconds"),
    ("reconstruction", "images", "seconds"),
    ("reconstruction", "iterations", "seconds"),
    ("reconstruction", "blocks", "seconds"),
)


class _Basic(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False) for _ in range(2))
        self.norm, self.other = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.second(self.norm(self.first(x)).relu()))
        return (y + x).relu()


def chain(blocks: int) -> GraphModel:
    """A network of so many basic blocks, prepared."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network = nn.Sequential(*stem, *(_Basic(16) for _ in range(blocks)), *head).eval()
    networks.with_statistics(network, torch.rand(32, *SHAPE))
    return prepare(network, SHAPE)


def reconstructed(images: int, iterations: int, blocks: int, limit: int | None = None) -> dict[str, Any]:
    """Reconstruct a chain; seconds, and what was kept in memory."""
    graph_model, inputs = chain(blocks), torch.rand(images, *SHAPE)
    quantized_model = calibrate(
        insert_quantizers(graph_model, make_plan(graph_model, 4, 4)), inputs[:32], observer="mse"
    )
    cache = ActivationCache(limit)
    with _watched() as beyond:
        started = time.perf_counter()
        reconstruct(quantized_model, inputs, ReconstructConfig(iterations=iterations), cache=cache)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": cache.peak, "disk": cache.peak_disk, "process": max(beyond)}


def synthesized(images: int) -> dict[str, Any]:
    """Synthesize images; seconds."""
    path = networks.MODELS / networks.CIFAR["resnet20"]
    torch.manual_seed(0)
    module = load_model(f"{path}:resnet20", pretrained=False).module
    networks.with_statistics(module, torch.rand(64, *SHAPE))
    model = as_model(module, size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    started = time.perf_counter()
    synthesize([model], SynthesisConfig(count=images, batch=64, iterations=STEPS))
    return {"seconds": time.perf_counter() - started}


def measure(scale: float) -> Rows:
    """All rows."""

    def some(values: Sequence[int], least: int) -> list[int]:
        return [max(least, round(value * scale)) for value in values]

    synthesized(64)  # warm up
    reconstructed(32, 5, 2)
    rows = [{"what": "synthesis", "of": "images", "images": n, **synthesized(n)} for n in some(IMAGES, 2)]
    varied = {"images": some(IMAGES, 2), "iterations": some(ITERATIONS, 1), "blocks": list(BLOCKS)}
    for name, values in varied.items():
        for value in values:
            sizes = {**USUAL, name: value}
            rows.append({"what": "reconstruction", "of": name, **sizes, **reconstructed(**sizes)})
    for count in varied["images"]:
        sizes = {**USUAL, "images": count, "iterations": 10}
        rows.append({"what": "limit", "of": "images", **sizes, **reconstructed(**sizes, limit=int(LIMIT * scale))})
    return [row | {"scale": scale, "threads": torch.get_num_threads()} | environment() for row in rows]


def line(rows: Rows, what: str, of: str) -> tuple[list[int], list[float], tuple[float, float], float]:
    """What was varied, the seconds, slope and beginning of a line through them, and the largest distance from it, in percent of it."""
    points = [(row[of], row["seconds"]) for row in rows if (row["what"], row["of"]) == (what, of)]
    x, y = [p[0] for p in points], [p[1] for p in points]
    slope, start = np.polyfit(x, y, 1, w=1 / np.array(y))  # what is small counts as much
    off = max(abs(b / (slope * a + start) - 1) for a, b in points)
    return x, y, (float(slope), float(start)), 100 * off


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Time and memory as work grows\n"
    yield "Made by `python -m benchmarks.linearity`, which says what is measured.\n"
    yield "| what | of | seconds | farthest from a line |"
    yield "| --- | --- | --- | --- |"
    for what, of, _ in PANELS:
        x, y, _, off = line(rows, what, of)
        yield f"| {what} | {', '.join(map(str, x))} {of} | {', '.join(f'{seconds:.1f}' for seconds in y)} | {off:.0f} % |"
    limited = [row for row in rows if row["what"] == "limit"]
    yield f"\n| images, with a limit of {LIMIT * limited[0]['scale'] / MIB:.0f} MiB | activations in memory | on disk | the process, beyond before |"
    yield "| --- | --- | --- | --- |"
    for row in limited:
        yield (
            f"| {row['images']} | {row['memory'] / MIB:.1f} MiB | {row['disk'] / MIB:.1f} MiB | {row['process'] / MIB:.0f} MiB |"
        )
    yield footer(rows, f", {rows[0]['threads']} threads")


def draw(rows: Rows, path: Path) -> None:
    """Draw the measured points, the lines through them, and memory."""
    matplotlib.use("svg")
    figure, axes = pyplot.subplots(1, len(PANELS) + 1, figsize=(15, 3), layout="constrained")
    for axis, (what, of, unit) in zip(axes, PANELS, strict=False):
        x, y, (slope, start), _ = line(rows, what, of)
        axis.plot([0, max(x)], [start, slope * max(x) + start], color="0.7", zorder=0)
        axis.plot(x, y, "o", color="tab:blue")
        axis.set(title=what, xlabel=of, ylabel=unit, xlim=(0, None), ylim=(0, None))
    limited = [row for row in rows if row["what"] == "limit"]
    x = [row["images"] for row in limited]
    for name, label in (("memory", "activations in memory"), ("disk", "activations on disk"), ("process", "process")):
        axes[-1].plot(x, [row[name] / MIB for row in limited], "o-", label=label)
    axes[-1].set(title="memory with a limit", xlabel="images", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    axes[-1].legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Bytes of memory without a file behind it, beyond what there was, looked at every few milliseconds."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back, or it would hide what is taken now
    before, beyond, ended = _anonymous(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            beyond.append(_anonymous() - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield beyond
    finally:
        ended.set()
        watcher.join()


def _anonymous() -> int:
    fields = dict(entry.split(":", 1) for entry in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def main() -> None:
    """Measure, write both result files and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    rows = measure(parser.parse_args().scale)
    write_rows("linearity", rows, page)
    draw(rows, PICTURE)
    print("\n".join(page(rows)))


if __name__ == "__main__":
    main()
