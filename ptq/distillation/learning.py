"""The loop in which one network learns the outputs of another, as both see the same views.

A student of another kind, a pruned network and a quantized one learn in it. What differs is what they move.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ptq.tasks.outputs import Output, named
from ptq.utils.autocast import fast_autocast
from ptq.utils.schedules import cosine
from ptq.utils.shares import add_up, share

__all__ = ["descend", "learn"]


def learn(
    student: Callable[..., Output],
    teacher: Callable[..., Output],
    views: Callable[[], Sequence[Tensor]],
    loss: Callable[[Output, Output], Tensor | tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    iterations: int,
    *,
    start: int = 0,
    autocast: bool = True,
) -> Iterator[Tensor]:
    """Take a step in every iteration, and yield its loss, (). The optimizer's learning rate falls to 0 along a cosine.

    Args:
        student: computes outputs from parameters of the optimizer.
        teacher: gives the outputs that are wanted.
        views: draws the inputs of both, on the device; the same on every rank, each of which learns from its share of them.
        loss: between outputs, of the student and of the teacher, which have gone through `named`; or what is minimized, and the loss that is told.
        optimizer: of what is learned.
        iterations: from the first one to the last.
        start: iterations that were done before.
        autocast: compute in bfloat16 where the device has it.

    Example:
        >>> student, teacher, seen = nn.Linear(4, 2), nn.Linear(4, 2), torch.rand(8, 4)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> squared = lambda ours, theirs: (ours["output"] - theirs["output"]).square().mean()
        >>> losses = list(learn(student, teacher, lambda: [seen], squared, optimizer, 50))
        >>> bool(losses[-1] < losses[0])
        True
    """
    lr = optimizer.param_groups[0]["lr"]
    for iteration in range(start, iterations):
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(iteration / iterations)
        inputs = views()
        own = share(len(inputs[0]))
        inputs = [x[own.rows] for x in inputs]
        device = inputs[0].device
        with torch.enable_grad(), fast_autocast(device) if autocast else torch.autocast(device.type, enabled=False):
            with torch.no_grad():
                wanted = _floats(teacher(*inputs))
            found = loss(_floats(student(*inputs)), wanted)
        value, told = found if isinstance(found, tuple) else (found, found)
        yield descend(optimizer, value, told.detach(), own.weight)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, told: Tensor, weight: float = 1.0) -> Tensor:
    """Take a step down a loss, the mean over a batch of which every rank has a share; return the mean of what is told of it.

    Args:
        optimizer: of what is learned, which is the same on every rank.
        loss: the mean over this rank's share, ().
        told: another mean over it, or the same, ().
        weight: of this rank's mean in that of the batch.
    """
    optimizer.zero_grad(set_to_none=True)
    if weight == 1:
        loss.backward()
    else:
        (loss * weight).backward()
        told = told * weight
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        add_up([told, *(p.grad for p in parameters if p.grad is not None)])
    optimizer.step()
    return told


def _floats(output: Output) -> dict[str, Tensor]:
    """Outputs by name, in float32 where they are real numbers."""
    return {name: value.float() if value.is_floating_point() else value for name, value in named(output).items()}
