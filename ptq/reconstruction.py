"""Block reconstruction: tune every block so that it gives what it gave in float.

One loop over the blocks; what happens inside one is `ptq.fit`, and the published methods are
configurations (`ptq.methods`). Every block reads what the quantized blocks before it give, and is
fitted to what the float block gives on float inputs. Where learning did not beat nearest rounding on
the calibration images, nearest rounding stays.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.blocks import compose, extract, split
from ptq.errors import PtqError
from ptq.fit import Pair, learns, optimise
from ptq.methods import METHODS, ReconstructConfig
from ptq.metrics import sqnr_db
from ptq.ops import foldable, module_of, sole_input, watch
from ptq.placement import Student
from ptq.progress import SILENT, Progress, Task
from ptq.quantizer import Quantizer, QuantLayer

__all__ = ["BlockResult", "reconstruct"]


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
    kept: str
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
        config: see `ptq.methods`.
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
    teachers, blocks = split(student.prepared.module, student.blocks), student.split()
    work = [list(_units(*pair, config)) for pair in zip(teachers, blocks, strict=True)]
    total = sum(map(len, work)) * config.iterations * (1 if config.joint else 2)
    x_float = x_quantized = inputs.to(next(student.module.parameters()).device)
    results = []
    with progress.stage("reconstruct", max(1, total)) as task:
        for index, (teacher, block, units) in enumerate(zip(teachers, blocks, work, strict=True)):
            started = time.perf_counter()
            target, output = _run(teacher, x_float), _run(block, x_quantized)
            nearest, kept = sqnr_db(target, output), "skipped"
            if units and config.iterations:
                weight = _fisher(compose(teachers[index + 1 :]), target) if config.fisher else None
                before = {name: value.clone() for name, value in block.state_dict().items()}
                seeded = replace(config, seed=config.seed * 1_000_003 + index * 1_009)
                _fit(
                    teacher, block, units, Pair(x_quantized, x_float, target, weight), seeded, task
                )
                output, kept = _run(block, x_quantized), "learned"
                if sqnr_db(target, output) < nearest:
                    block.load_state_dict(before)
                    output, kept = _run(block, x_quantized), "nearest"
            seconds = time.perf_counter() - started
            results.append(_result(index, block, nearest, sqnr_db(target, output), kept, seconds))
            if on_block is not None:
                on_block(index, results[-1])
            x_float, x_quantized = target, output
    return results


def _result(
    index: int, block: fx.GraphModule, nearest: float, sqnr: float, kept: str, seconds: float
) -> BlockResult:
    layers = tuple(n.name for n in block.graph.nodes if isinstance(module_of(block, n), QuantLayer))
    name = layers[-1] if layers else f"block{index}"
    return BlockResult(name, layers, nearest, sqnr, kept, seconds)


def _fit(
    teacher: fx.GraphModule,
    block: fx.GraphModule,
    units: list[tuple[fx.GraphModule, fx.GraphModule]],
    whole: Pair,
    config: ReconstructConfig,
    task: Task,
) -> None:
    """Fit a block, or one after the other the layers in it."""
    if config.unit == "block":
        optimise(block, whole, config, task)
        return
    for number, (unit_teacher, unit) in enumerate(units):
        x_float = _capture(teacher, unit_teacher, whole.x_float)
        x_quantized = _capture(block, unit, whole.x_quantized)
        pair = Pair(x_quantized, x_float, _run(unit_teacher, x_float), None)
        optimise(unit, pair, replace(config, seed=config.seed + number), task)


def _units(
    teacher: fx.GraphModule, block: fx.GraphModule, config: ReconstructConfig
) -> Iterator[tuple[fx.GraphModule, fx.GraphModule]]:
    """Yield (float, quantized) graphs to optimise one after the other; none where nothing can be gained."""
    learnable = [n for n in block.graph.nodes if learns(module_of(block, n))]
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


@torch.no_grad()
def _run(block: fx.GraphModule, x: Tensor, batch: int = 64) -> Tensor:
    return torch.cat([block(part) for part in x.split(batch)])


def _capture(graph: fx.GraphModule, unit: fx.GraphModule, x: Tensor, batch: int = 64) -> Tensor:
    """Run `graph` on `x` and return what flows into `unit`, a part of it."""
    first = next(n for n in unit.graph.nodes if n.op == "call_module")
    wanted = sole_input(next(n for n in graph.graph.nodes if n.name == first.name))
    parts: list[Tensor] = []
    for part in x.split(batch):
        watch(graph, part, {wanted.name: parts.append})
    return torch.cat(parts)


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
