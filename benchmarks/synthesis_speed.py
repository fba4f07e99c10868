"""How long images take, side by side in one run.

    python -m benchmarks.synthesis_speed DATA [--mct PYTHON] [--repeats 3] [--sizes small,large]

256 images for CIFAR ResNet-20 in default settings are compared with a plain float32 loop of the same objective and the same steps, and with
Sony's Model Compression Toolkit (500 iterations). PYTHON is one that has model-compression-toolkit 2.6.1. Then 128 images of 224x224 are made
for EfficientNet-Lite0.

DATA is described in benchmarks/networks.py. Writes results/synthesis_speed.{json,md}. Nothing else should run on the machine.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.rows import add_rows, footer, read_rows
from benchmarks.sources import mct_images
from ptq.calibration import SynthesisConfig, synthesis_preset, synthesize
from ptq.calibration.objectives import total_variation
from ptq.data.image_ops import augment, mix, random_box
from ptq.models.model import Model
from ptq.utils.environment import environment

LITE0 = "ptq, EfficientNet-Lite0"


def plain_loop(model: Model, config: SynthesisConfig) -> None:
    """The objective as one writes it first: float32, contiguous, full resolution, hooks with var and mean."""
    weights = {type(term).__name__: term.weight for term in config.terms}
    seen: list[tuple[Tensor, Tensor, Any]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        seen.append((x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), layer))

    layers = [m for m in model.module.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    for _ in range(math.ceil(config.count / config.batch)):
        images = torch.rand(config.batch, 3, *model.preprocess.size, requires_grad=True)
        labels = torch.randint(model.num_classes or 1, (config.batch,))
        optimizer = torch.optim.Adam([images], lr=config.lr, betas=config.betas)
        for _ in range(config.iterations):
            x = augment(images, config.jitter, generator)
            box = random_box((x.shape[-2], x.shape[-1]), generator)
            x, share = mix(x, x.roll(1, 0), box), box.share(x)
            seen.clear()
            logits = model.module(model.preprocess.normalize(x))
            partners = nn.functional.cross_entropy(logits, labels.roll(1))
            own = nn.functional.cross_entropy(logits, labels)
            loss = weights["Label"] * ((1 - share) * own + share * partners)
            loss = loss + weights["TotalVariation"] * total_variation(images)
            for mean, var, layer in seen:
                scale = layer.running_var + layer.eps
                loss = loss + ((mean - layer.running_mean) / scale.sqrt()).square().mean().sqrt()
                loss = loss + ((var - layer.running_var) / scale).square().mean().sqrt()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images.data.clamp_(0, 1)
    for hook in hooks:
        hook.remove()


def seconds(work: Any) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(data: Path, mct: str, repeats: int, sizes: list[str]) -> list[dict[str, Any]]:
    """One row per contender, measured in turns."""
    resnet, lite = networks.load("resnet20", data), networks.load("efficientnet_lite0", data)
    small = synthesis_preset("default", resnet.preprocess)
    large = synthesis_preset("default", lite.preprocess, count=128)
    contenders: dict[str, Callable[[], object]] = {}
    if "small" in sizes:
        contenders["ptq"] = lambda: synthesize([resnet], small)
        contenders["plain float32 loop"] = lambda: plain_loop(resnet, small)
    if "large" in sizes:
        contenders[LITE0] = lambda: synthesize([lite], large)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            times[name].append(seconds(work))
    steps = {"ptq": small.iterations, "plain float32 loop": small.iterations, LITE0: large.iterations}
    if mct and "small" in sizes:
        path = Path("runs/synthesis_speed.npz")
        path.unlink(missing_ok=True)
        made = mct_images(mct, "resnet20", data, path, small.count, 0, iterations=500)
        times["Sony MCT 2.6.1"] = [made.provenance["seconds"]]
        steps["Sony MCT 2.6.1"] = 500
    counts = dict.fromkeys(times, small.count) | {LITE0: large.count}
    return [
        {
            "what": what,
            "images": counts[what],
            "iterations": steps[what],
            "seconds": [round(t, 2) for t in taken],
            "threads": torch.get_num_threads(),
            **environment(),
        }
        for what, taken in times.items()
    ]


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    ours = statistics.median(next(r["seconds"] for r in rows if r["what"] == "ptq"))
    yield "# How long images take\n\nMade by `python -m benchmarks.synthesis_speed DATA --mct PYTHON`. Medians. The network is ResNet-20 at 32x32"
    yield "where no other is named. All rows at 32x32 were taken in one run.\n"
    yield "| what | images | iterations | seconds | over ptq |\n| --- | --- | --- | --- | --- |"
    for row in rows:
        median = statistics.median(row["seconds"])
        ratio = "" if "Lite" in row["what"] else f"{median / ours:.1f}"
        yield f"| {row['what']} | {row['images']} | {row['iterations']} | {median:.1f} | {ratio} |"
    yield footer(rows, f", {rows[0]['threads']} threads")


def main() -> None:
    """Measure and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--mct", default="")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", default="small,large", help="images of 32 pixels, of 224")
    options = parser.parse_args()
    rows = measure(options.data, options.mct, options.repeats, options.sizes.split(","))
    add_rows("synthesis_speed", rows, ("what",), page)
    print("\n".join(page(read_rows("synthesis_speed"))))


if __name__ == "__main__":
    main()
