"""Block reconstruction: learn rounding and step sizes so that every block gives what it gave in float.

One loop; the published methods are configurations of it:

    AdaRound (Nagel et al., ICML 2020)   one layer at a time, weights only
    BRECQ    (Li et al., ICLR 2021)      one block at a time, weights first, then activation steps;
                                         errors weighted by squared output gradients
    QDrop    (Wei et al., ICLR 2022)     one block at a time, weights and steps together, half of the
                                         activations left in float at random

The loss is the block's squared error over that of nearest rounding, so that one learning rate and
one weight of the rounding regulariser serve every network: no flag per architecture.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.blocks import compose, extract, split
from ptq.errors import PtqError
from ptq.metrics import sqnr_db
from ptq.ops import module_of, sole_input
from ptq.placement import Student, foldable
from ptq.progress import SILENT, Progress, Task
from ptq.quantizer import AdaRoundQuantizer, DropMask, QuantLayer, Quantizer, WeightQuantizer

__all__ = ["METHODS", "BlockResult", "ReconstructConfig", "method_preset", "reconstruct"]

NEAREST_ENOUGH = 8  # bits at which nearest rounding leaves nothing to learn


@dataclass(frozen=True)
class ReconstructConfig:
    """How blocks are reconstructed.

    Args:
        unit: what is optimised at once.
        joint: learn rounding and activation steps together; otherwise rounding first, then steps.
        drop: share of the activations left in float at random, of block inputs and inside (QDrop).
        fisher: weight errors by squared gradients of the network's loss (BRECQ).
        iterations: per unit and phase; 0 keeps nearest rounding.
        batch: images per iteration.
        lr_rounding: Adam learning rate of the rounding variables.
        lr_step: Adam learning rate of activation steps, relative to each step.
        rounding_weight: of the regulariser that drives every rounding to 0 or 1.
        beta: the regulariser's exponent at the end of the warm-up and at the end.
        warmup: share of the iterations without regulariser.
        seed: same seed, same machine: same result, bit for bit.
    """

    unit: Literal["layer", "block"] = "block"
    joint: bool = True
    drop: float = 0.5
    fisher: bool = False
    iterations: int = 1000
    batch: int = 32
    lr_rounding: float = 1e-2
    lr_step: float = 1e-3
    rounding_weight: float = 1.0
    beta: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2
    seed: int = 0


METHODS: dict[str, ReconstructConfig] = {
    "qdrop": ReconstructConfig(),
    "brecq": ReconstructConfig(joint=False, drop=0.0, fisher=True),
    "adaround": ReconstructConfig(unit="layer", joint=False, drop=0.0),
    "nearest": ReconstructConfig(iterations=0),
}


# Iterations and images per iteration: seconds, minutes or an hour per network on two cores.
BUDGETS: dict[str, dict[str, int]] = {
    "fast": {"iterations": 60, "batch": 16},
    "default": {"iterations": 400, "batch": 32},
    "best": {"iterations": 4000, "batch": 32},
}


def method_preset(method: str, preset: str) -> ReconstructConfig:
    """Return a method with a preset's budget.

    Args:
        method: a key of `METHODS`.
        preset: "fast", "default" or "best".

    Raises:
        PtqError: when either is unknown.
    """
    if method not in METHODS or preset not in BUDGETS:
        raise PtqError(f"unknown method or preset; choose of {', '.join(METHODS)} and {', '.join(BUDGETS)}.")
    config = METHODS[method]
    return replace(config, **BUDGETS[preset]) if config.iterations else config  # type: ignore[arg-type]


@dataclass(frozen=True)
class BlockResult:
    """What reconstruction did to one block.

    Args:
        name: of the block's last layer.
        layers: node names of its layers.
        sqnr_nearest: dB of the block's output with nearest rounding, on the calibration images.
        sqnr: dB with what was kept.
        kept: "learned", "nearest" (learning did not help) or "skipped" (nothing below 8 bits).
        seconds: spent.
    """

    name: str
    layers: tuple[str, ...]
    sqnr_nearest: float
    sqnr: float
    kept: Literal["learned", "nearest", "skipped"]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-able data."""
        return asdict(self)


def reconstruct(
    student: Student,
    inputs: Tensor,
    config: ReconstructConfig = METHODS["qdrop"],
    *,
    progress: Progress = SILENT,
    on_block: Callable[[int, BlockResult], None] | None = None,
) -> list[BlockResult]:
    """Reconstruct a calibrated student block by block, in place.

    Args:
        student: calibrated; it computes on the device its modules are on.
        inputs: calibration images as the network takes them, (N, C, H, W).
        config: see `METHODS`.
        progress: told of every iteration, with the loss relative to nearest rounding.
        on_block: called after every block.

    Returns:
        One result per block.

    Raises:
        PtqError: when the student has not been calibrated.

    Example:
        >>> results = reconstruct(student, images, METHODS["brecq"])
        >>> all(r.sqnr >= r.sqnr_nearest for r in results)
        True
    """
    if not all(q.calibrated for q in student.quantizers().values()):
        raise PtqError("calibrate the student before reconstructing it.")
    device = next(student.module.parameters()).device
    teachers, blocks = split(student.prepared.module, student.blocks), student.split()
    x_float = inputs.to(device)
    x_quantized = x_float
    results = []
    work = [list(_units(teacher, block, config)) for teacher, block in zip(teachers, blocks, strict=True)]
    phases = 1 if config.joint else 2
    with progress.stage("reconstruct", max(1, sum(map(len, work)) * phases * config.iterations)) as task:
        for index, (teacher, block, units) in enumerate(zip(teachers, blocks, work, strict=True)):
            started = time.perf_counter()
            target = _run(teacher, x_float)
            output = _run(block, x_quantized)
            nearest = sqnr_db(target, output)
            kept: Literal["learned", "nearest", "skipped"] = "skipped"
            if units and config.iterations:
                before = _state(block)
                weight = _fisher(compose(teachers[index + 1 :]), target) if config.fisher else None
                for number, (unit_teacher, unit) in enumerate(units):
                    whole = config.unit == "block"
                    pair = Pair(
                        x_quantized if whole else _capture(block, unit, x_quantized),
                        x_float if whole else _capture(teacher, unit_teacher, x_float),
                        target if whole else _run(unit_teacher, _capture(teacher, unit_teacher, x_float)),
                        weight if whole else None,
                    )
                    seed = config.seed * 1_000_003 + index * 1_009 + number
                    _optimise(unit, pair, replace(config, seed=seed), task)
                output = _run(block, x_quantized)
                kept = "learned"
                if sqnr_db(target, output) < nearest:
                    block.load_state_dict(before)
                    output = _run(block, x_quantized)
                    kept = "nearest"
            layers = tuple(n.name for n in block.graph.nodes if isinstance(module_of(block, n), QuantLayer))
            name = layers[-1] if layers else f"block{index}"
            result = BlockResult(
                name, layers, nearest, sqnr_db(target, output), kept, time.perf_counter() - started
            )
            results.append(result)
            if on_block is not None:
                on_block(index, result)
            x_float, x_quantized = target, output
    return results


@dataclass(frozen=True)
class Pair:
    """What one unit is fitted to, each (N, ...): its inputs, the float output, the errors' weights."""

    x_quantized: Tensor
    x_float: Tensor
    target: Tensor
    weight: Tensor | None


def _units(
    teacher: fx.GraphModule, block: fx.GraphModule, config: ReconstructConfig
) -> Iterator[tuple[fx.GraphModule, fx.GraphModule]]:
    """Yield (float, quantized) graphs to optimise one after the other; none where nothing can be gained."""
    learnable = [n for n in block.graph.nodes if _learns(module_of(block, n))]
    if not learnable:
        return
    if config.unit == "block":
        yield teacher, block
        return
    floats = {n.name: n for n in teacher.graph.nodes}
    for node in learnable:
        if isinstance(module_of(block, node), QuantLayer):
            yield (
                extract(teacher, _layer_and_activation(teacher, floats[node.name])),
                extract(block, _layer_and_activation(block, node)),
            )


def _layer_and_activation(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    nodes = [node]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        if not (foldable(graph, user) or isinstance(module_of(graph, user), Quantizer)):
            break
        nodes.append(user)
    return nodes


def _learns(module: nn.Module | None) -> bool:
    if isinstance(module, QuantLayer):
        return module.weight_quantizer.spec.bits < NEAREST_ENOUGH
    return isinstance(module, Quantizer) and module.spec.bits < NEAREST_ENOUGH


@torch.no_grad()
def _run(block: fx.GraphModule, x: Tensor, batch: int = 64) -> Tensor:
    return torch.cat([block(part) for part in x.split(batch)])


class _Tap(fx.Interpreter):
    """Runs a graph and keeps what one of its nodes gave."""

    def __init__(self, graph: fx.GraphModule, wanted: str) -> None:
        super().__init__(graph)
        self.wanted = wanted
        self.value: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name == self.wanted:
            self.value = result
        return result


@torch.no_grad()
def _capture(graph: fx.GraphModule, unit: fx.GraphModule, x: Tensor, batch: int = 64) -> Tensor:
    """Run `graph` on `x` and return what flows into `unit`, a part of it."""
    first = next(n for n in unit.graph.nodes if n.op == "call_module")
    wanted = sole_input(next(n for n in graph.graph.nodes if n.name == first.name))
    parts = []
    for part in x.split(batch):
        tap = _Tap(graph, wanted.name)
        tap.run(part)
        assert tap.value is not None
        parts.append(tap.value)
    return torch.cat(parts)


def _state(block: fx.GraphModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in block.state_dict().items()}


def _fisher(rest: nn.Module, target: Tensor, batch: int = 32) -> Tensor:
    """Squared gradients of the network's loss with respect to a block's output, mean 1 (BRECQ, eq. 10).

    The loss is the cross-entropy with the float network's own prediction.
    """
    parts = []
    with torch.enable_grad():
        for part in target.split(batch):
            leaf = part.detach().clone().requires_grad_()
            logits = rest(leaf).flatten(1)
            loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
            (grad,) = torch.autograd.grad(loss, leaf)
            parts.append(grad.square())
    weight = torch.cat(parts)
    return weight / weight.mean().clamp(min=1e-30)


def _optimise(unit: fx.GraphModule, pair: Pair, config: ReconstructConfig, task: Task) -> None:
    """Fit one unit to its float output; afterwards its roundings are decided."""
    modules = [m for n in unit.graph.nodes if (m := module_of(unit, n)) is not None]
    layers = [m for m in modules if isinstance(m, QuantLayer) and _learns(m)]
    steps = [m for m in modules if isinstance(m, Quantizer)]
    for phase in ("both",) if config.joint else ("weights", "steps"):
        _phase(unit, pair, config, task, layers if phase != "steps" else [], steps if phase != "weights" else [], steps)


def _phase(
    unit: fx.GraphModule,
    pair: Pair,
    config: ReconstructConfig,
    task: Task,
    layers: list[QuantLayer],
    steps: list[Quantizer],
    quantizers: list[Quantizer],
) -> None:
    device = pair.target.device
    reference = _mean_error(unit, pair)
    generator = torch.Generator().manual_seed(config.seed)
    mask = DropMask(1 - config.drop, config.seed, device) if config.drop else None
    in_float = None if config.joint else DropMask(0.0, config.seed, device)
    nearest: list[WeightQuantizer] = []
    rounding: list[AdaRoundQuantizer] = []
    for layer in layers:
        assert isinstance(layer.weight_quantizer, WeightQuantizer)
        nearest.append(layer.weight_quantizer)
        rounding.append(AdaRoundQuantizer(layer.weight_quantizer, layer.op.weight))
        layer.weight_quantizer = rounding[-1]
    groups: list[dict[str, Any]] = [{"params": [r.alpha], "lr": config.lr_rounding} for r in rounding]
    groups += [{"params": [q.scale], "lr": config.lr_step * float(q.scale)} for q in steps]
    for quantizer in quantizers:
        quantizer.scale.requires_grad_(quantizer in steps)
        quantizer.drop = mask if quantizer in steps else in_float
    if not groups:
        return
    optimizer = torch.optim.Adam(groups)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations)
    unit.train()
    for iteration in range(config.iterations):
        index = torch.randint(len(pair.target), (config.batch,), generator=generator).to(device)
        x = pair.x_quantized.index_select(0, index)
        if mask is not None:
            x = torch.lerp(pair.x_float.index_select(0, index), x, mask(x))
        loss = _error(unit(x), pair, index) / reference
        progress = (iteration / config.iterations - config.warmup) / (1 - config.warmup)
        total = loss
        if progress > 0:
            beta = config.beta[1] + (config.beta[0] - config.beta[1]) * (1 - progress)
            for r in rounding:
                total = total + config.rounding_weight / len(rounding) * r.regularizer(beta)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        decay.step()
        task.advance(loss=float(loss.detach()))
    unit.eval()
    for quantizer in quantizers:
        quantizer.drop = None
        quantizer.scale.requires_grad_(False)
    for layer, quantizer, learned in zip(layers, nearest, rounding, strict=True):
        layer.op.weight.data.copy_(learned.hardened())
        layer.weight_quantizer = quantizer


def _error(output: Tensor, pair: Pair, index: Tensor) -> Tensor:
    error = (output - pair.target.index_select(0, index)).square()
    return (error if pair.weight is None else error * pair.weight.index_select(0, index)).mean()


@torch.no_grad()
def _mean_error(unit: fx.GraphModule, pair: Pair, images: int = 64) -> float:
    """The error of nearest rounding: the unit in which the loss is counted."""
    index = torch.arange(min(images, len(pair.target)), device=pair.target.device)
    return max(float(_error(unit(pair.x_quantized[index]), pair, index)), 1e-20)

