"""Do branches that are folded into one convolution harm weights of 4 bits?

    python -m benchmarks.branches [--seeds 0,1,2] [--epochs 12] [--iterations 200]

A network of RepVGG's blocks (3x3, 1x1 and identity, each with its BatchNorm), and one of residual blocks `x + conv(x)`, are trained on scikit-learn's
digits and quantized to W4A8, with branches folded into one convolution, with all but identities folded (the default below 8 bits), and as they are
(`--keep-branches`). Columns:

    kept      which branches were left as they are: none, identities, all
    layers    convolutions and linear layers
    nearest   SQNR in dB of the logits against float on 256 images, of 128 others calibration took its ranges from; nearest rounding
    tuned     the same after reconstruction on these 128 images
    top-1     of the tuned network on the 256 images, and of the float one

Rows are added to results/branches.json as they are finished. results/branches.md is made from it.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any, get_args

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.rows import add_rows, footer
from ptq.calibration import calibrate
from ptq.config.choices import KeptBranches
from ptq.graph.fx_helpers import LAYERS
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction import ReconstructConfig, reconstruct
from ptq.utils.environment import environment
from ptq.utils.metrics import sqnr_db

KEYS = ("network", "kept", "seed")
SHAPE = (1, 8, 8)
WIDTHS = (16, 32, 32, 64, 64)
FEW, TESTED = 128, 256


class RepVGGBlock(nn.Module):
    """3x3, 1x1 and, where shapes agree, the identity, each with a BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.small = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.same = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.large(x) + self.small(x)
        return F.relu(y if self.same is None else y + self.same(x))


class ResidualBlock(nn.Module):
    """x + conv(x), with a BatchNorm; a plain convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return F.relu(x + y if self.adds else y)


BLOCKS: dict[str, type[RepVGGBlock] | type[ResidualBlock]] = {"RepVGG": RepVGGBlock, "residual": ResidualBlock}


def network(kind: str) -> nn.Sequential:
    """Blocks of one kind, a global average and a linear layer."""
    pairs = zip((1, *WIDTHS[:-1]), WIDTHS, strict=True)
    blocks = [BLOCKS[kind](i, o, 2 if o > i > 1 else 1) for i, o in pairs]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10))


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with Adam and a cosine."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[index]), labels[index]).backward()
            optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)


def measure(kind: str, seed: int, epochs: int, iterations: int) -> Iterator[dict[str, Any]]:
    """Rows of one trained network, with its branches folded and kept."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(8).sub(1)[:, None]
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images))
    tested, learned = order[:TESTED], order[TESTED:]
    net = network(kind)
    train(net, images[learned], labels[learned], epochs)
    x, some = images[tested], images[learned[:FEW]]
    wanted = net(x)
    for kept in get_args(KeptBranches):
        graph_model = prepare(net, SHAPE, keep_branches=kept)
        quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4)), some)
        nearest = sqnr_db(wanted, torch.as_tensor(quantized_model.fake_quantized_forward(x)))
        torch.manual_seed(seed)
        reconstruct(quantized_model, some, ReconstructConfig(iterations=iterations))
        logits = torch.as_tensor(quantized_model.fake_quantized_forward(x))
        yield {
            "network": kind,
            "kept": kept,
            "seed": seed,
            "layers": sum(isinstance(m, LAYERS) for m in graph_model.module.modules()),
            "nearest_db": round(nearest, 1),
            "tuned_db": round(sqnr_db(wanted, logits), 1),
            "top1": _percent(logits, labels[tested]),
            "float_top1": _percent(wanted, labels[tested]),
            **environment(),
        }


def _percent(logits: Tensor, labels: Tensor) -> float:
    return round(100 * float((logits.argmax(1) == labels).float().mean()), 1)


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Folded branches at 4 bits"
    yield "\nMade by `python -m benchmarks.branches`, which explains the columns.\n"
    yield "| network | kept | seed | layers | nearest, dB | tuned, dB | top-1 % | float % |\n|" + " --- |" * 8
    for r in rows:
        figures = (r["nearest_db"], r["tuned_db"], r["top1"], r["float_top1"])
        yield f"| {r['network']} | {r['kept']} | {r['seed']} | {r['layers']} | {' | '.join(f'{n:.1f}' for n in figures)} |"
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=200)
    options = parser.parse_args()
    for seed in map(int, options.seeds.split(",")):
        for kind in BLOCKS:
            for row in measure(kind, seed, options.epochs, options.iterations):
                add_rows("branches", [row], KEYS, page)
                print(json.dumps({k: v for k, v in row.items() if k not in ("versions", "machine")}), flush=True)


if __name__ == "__main__":
    main()
