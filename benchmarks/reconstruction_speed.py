"""How long an iteration of reconstruction takes, over what the float block takes by itself.

    python -m benchmarks.reconstruction_speed [--iterations 100] [--repeats 3]

Three blocks with random weights, W4A4: a basic block of CIFAR ResNet-20 (32 images of 32x32), a bottleneck of
ResNet-50 (8 images, 28x28), an inverted residual of MobileNetV2 (8 images, 56x56). In turns, in one run:

- the float block's own forward and backward pass, gradients of the weights and of its input included, in the
  precision and memory layout that reconstruction runs it in;
- one iteration of `ptq.reconstruction.optimization.optimize`: fetching images, QDrop, forward, backward, Adam;
- one iteration of the same method as one writes it first: float32, contiguous, autograd all through.

Writes results/reconstruction_speed.{json,md}. Nothing else should run on the machine.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import networks
from benchmarks.rows import footer, write_rows
from ptq.calibration import calibrate
from ptq.graph.blocks import Block, named_inputs, split
from ptq.graph.fx_helpers import module_of
from ptq.graph.passes import run_cached
from ptq.graph.preparation import prepare
from ptq.models.model import load_model
from ptq.quantization.affine import per_channel, round_ste
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.layers import QuantLayer
from ptq.quantization.plan import make_plan
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.config import METHODS, ReconstructConfig
from ptq.reconstruction.optimization import Pair, optimize
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.autocast import fast_autocast, fast_bfloat16, keep_in_float32
from ptq.utils.environment import environment

CPU = torch.device("cpu")
IMAGES = 64


@dataclass(frozen=True)
class Case:
    """A block to time: what it is, its network, which of the network's layers it contains, and a batch."""

    name: str
    network: Callable[[], nn.Module]
    layer: str
    side: int
    batch: int


def _resnet20() -> nn.Module:
    path = networks.MODELS / networks.CIFAR["resnet20"]
    return load_model(f"{path}:resnet20", pretrained=False).module


CASES = (
    Case("basic block, ResNet-20", _resnet20, "layer1_1", 32, 32),
    Case("bottleneck, ResNet-50", lambda: torchvision.models.resnet50(), "layer2_1", 224, 8),
    Case("inverted residual, MobileNetV2", lambda: torchvision.models.mobilenet_v2(), "features_3", 224, 8),
)


@dataclass(frozen=True)
class Fit:
    """A block of a calibrated quantized model with the float block and what it reads."""

    float_block: Block
    quantized_block: Block
    pair: Pair
    config: ReconstructConfig


def block_of(case: Case) -> Fit:
    """Quantize a network with random weights, and take the block out."""
    torch.manual_seed(0)
    network, shape = case.network().eval(), (3, case.side, case.side)
    graph_model = prepare(network, shape)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 4, 4))
    x, cache = torch.rand(IMAGES, *shape), ActivationCache()
    calibrate(quantized_model, x[:8])
    float_blocks, blocks = (split(graph_model.module, quantized_model.blocks), quantized_model.split())
    alive = named_inputs(graph_model.module, x)
    for float_block, block in zip(float_blocks, blocks, strict=True):
        target = run_cached(float_block, alive, cache)
        if any(n.name.startswith(case.layer) for n in block.module.graph.nodes):
            config = ReconstructConfig(**{**vars(METHODS["qdrop"]), "batch": case.batch})
            return Fit(float_block, block, Pair(alive, alive, target, None), config)
        alive = {**alive, **target}
    raise LookupError(case.layer)


def float_pass(block: Fit) -> Callable[[], None]:
    """Forward and backward of the float block, as reconstruction would run it."""
    float_block = block.float_block.module.to(memory_format=torch.channels_last)
    keep_in_float32(float_block, CPU, weights=True)
    layers = [m for n in float_block.graph.nodes if (m := module_of(float_block, n)) is not None]
    weights = [p.requires_grad_() for m in layers for n, p in m.named_parameters() if n == "weight"]
    batch = block.config.batch
    (x,) = (block.pair.x_float[name] for name in block.float_block.inputs)
    x = x[:batch].contiguous(memory_format=torch.channels_last)
    if not fast_bfloat16(CPU):  # cached activations are in it all the same
        x = x.float()
    x, (target,) = x.requires_grad_(), (y[:batch] for y in block.pair.target.values())

    def run() -> None:
        with fast_autocast(CPU):
            loss = F.mse_loss(float_block(x).float(), target.float())
        torch.autograd.grad(loss, [x, *weights])

    return run


def iteration(block: Fit, count: int) -> Callable[[], None]:
    """`count` iterations of reconstruction."""
    config = ReconstructConfig(**{**vars(block.config), "iterations": count})
    state = {name: value.clone() for name, value in block.quantized_block.module.state_dict().items()}

    def run() -> None:
        block.quantized_block.module.load_state_dict(state)
        optimize(block.quantized_block, block.pair, config, _Silent())

    return run


class _Silent:
    def advance(self, n: int = 1, **figures: float) -> None:
        pass


class _PlainLayer(nn.Module):
    """Soft rounding by autograd."""

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        self.layer = (layer.op,)
        quantizer = layer.weight_quantizer
        self.spec = quantizer.spec
        weight = quantizer.float_weight
        self.scale = per_channel(quantizer.scale, weight, quantizer.spec.axis)
        self.base = (weight / self.scale).floor()
        rest = (weight / self.scale - self.base).clamp(0.01, 0.99)
        self.alpha = nn.Parameter(-torch.log(1.2 / (rest + 0.1) - 1))

    def forward(self, x: Tensor) -> Tensor:
        h = (torch.sigmoid(self.alpha) * 1.2 - 0.1).clamp(0, 1)
        codes = (self.base + h).clamp(self.spec.qmin, self.spec.qmax)
        op = self.layer[0]
        assert isinstance(op, nn.Conv2d)
        return F.conv2d(x, codes * self.scale, op.bias, op.stride, op.padding, op.dilation, op.groups)


class _PlainScale(nn.Module):
    """A learned scale by autograd, half of the elements left in float."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.spec, self.zero_point = quantizer.spec, quantizer.zero_point
        self.scale = nn.Parameter(quantizer.scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        codes = (round_ste(x / self.scale) + self.zero_point).clamp(self.spec.qmin, self.spec.qmax)
        y = (codes - self.zero_point) * self.scale
        return torch.where(torch.rand_like(x) < 0.5, y, x)


def plain_iteration(block: Fit, count: int) -> Callable[[], None]:
    """`count` iterations of the same method in float32, the way one writes it first."""
    graph = copy.deepcopy(block.quantized_block.module)
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        if isinstance(module, QuantLayer | Quantizer):
            made = _PlainLayer(module) if isinstance(module, QuantLayer) else _PlainScale(module)
            setattr(graph, f"plain_{node.name}", made)
            node.target = f"plain_{node.name}"
    graph.recompile()
    (name,), (target,) = block.quantized_block.inputs, block.pair.target.values()
    x_quantized, x_float = (x[name].float().contiguous() for x in (block.pair.x_quantized, block.pair.x_float))
    target, batch = target.float().contiguous(), block.config.batch
    learned = [
        p for m in graph.modules() if isinstance(m, _PlainLayer | _PlainScale) for p in m.parameters(recurse=False)
    ]
    optimizer = torch.optim.Adam(learned, lr=1e-3)

    def run() -> None:
        for _ in range(count):
            index = torch.randint(IMAGES, (batch,))
            x = torch.where(torch.rand(x_float[index].shape) < 0.5, x_quantized[index], x_float[index])
            loss = (graph(x) - target[index]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def measure(iterations: int, repeats: int) -> list[dict[str, Any]]:
    """One row per block: milliseconds of each, in turns."""
    rows = []
    for case in CASES:
        block = block_of(case)
        plain = plain_iteration(block, iterations)
        ours, reference = iteration(block, iterations), float_pass(block)

        def floats(run: Callable[[], None] = reference) -> None:
            for _ in range(iterations):
                run()

        times: dict[str, list[float]] = {"float": [], "ours": [], "plain": []}
        for repeat in range(repeats + 1):  # the first one warms up
            for name, work in (("float", floats), ("ours", ours), ("plain", plain)):
                started = time.perf_counter()
                work()
                if repeat:
                    times[name].append(1e3 * (time.perf_counter() - started) / iterations)
        rows.append(
            {
                "block": case.name,
                "batch": case.batch,
                "iterations": iterations,
                "ms": {name: [round(t, 3) for t in taken] for name, taken in times.items()},
                "threads": torch.get_num_threads(),
                **environment(),
            }
        )
    return rows


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# How long an iteration of reconstruction takes\n"
    yield "Made by `python -m benchmarks.reconstruction_speed`, which says what is measured. Medians, in one run."
    yield "\n| block | float forward + backward, ms | an iteration, ms | over float | plain float32 iteration, ms | times as fast |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        ms = {name: statistics.median(taken) for name, taken in row["ms"].items()}
        yield (
            f"| {row['block']} | {ms['float']:.2f} | {ms['ours']:.2f} | {ms['ours'] / ms['float']:.2f} "
            f"| {ms['plain']:.2f} | {ms['plain'] / ms['ours']:.1f} |"
        )
    yield footer(rows, f", {rows[0]['threads']} threads")


def main() -> None:
    """Measure and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = measure(options.iterations, options.repeats)
    write_rows("reconstruction_speed", rows, page)
    print("\n".join(page(rows)))


if __name__ == "__main__":
    main()
