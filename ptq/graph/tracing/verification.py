"""Does the graph compute what the model computes? And where it does not: is that the model's doing or ours?"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ptq.errors import ModelError, reason
from ptq.graph.tracing.rewriting import hooks_of
from ptq.tasks.outputs import Output, named, named_tensors
from ptq.utils.modules import evaluating

__all__ = ["verify"]

CLOSE = 1e-3  # of the largest output: what another order of sums in float32 may change
HALF = 3e-2  # the same where the model itself computes in half precision
TINY = 1e-6  # a difference that does not count
TIED = 1e-2  # the share of whole numbers that floats, nearly tied, may decide otherwise


@torch.no_grad()
def verify(model: nn.Module, graph: nn.Module, example: Tensor) -> Output:
    """Compare a prepared graph with its model; neither is changed.

    Args:
        model: the original, hooks and all.
        graph: what is quantized, simulated and exported.
        example: images (N, C, H, W), of another batch size than the graph was traced with.

    Returns:
        What the graph gives for the example.

    Raises:
        ModelError: when the model is random, mixes the images of a batch, takes no single image, is changed by hooks or
            gives numbers that are not finite; when the graph is bound to one batch size or computes something else.
    """
    expected = _run(model, example)
    for name, value in expected.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"the model's {name} is NaN or infinite{_culprits(model)}")
        if len(value) != len(example):
            raise ModelError(
                f"the model returns {name} of shape {tuple(value.shape)} for {len(example)} images: the first dimension of "
                "every output must be that of the images; leave out what is the same for all of them, as anchors"
            )
    again, half = _run_again(model, example)
    close = HALF if half else CLOSE
    if _apart(expected, again) > close:
        raise ModelError(
            "the model gives another answer each time it is asked: take what is random out of its forward, such as "
            "F.dropout without training=self.training"
        )
    alone = _run(model, example[:1])
    for name, value in alone.items():
        if value.shape != expected[name][:1].shape:
            raise ModelError(
                f"the model answers one image with {tuple(value.shape)} numbers, not {tuple(expected[name][:1].shape)}: a "
                "squeeze() in its forward drops the batch where that is one image; write flatten(1), or squeeze with "
                "dimensions"
            )
    if _apart({name: value[:1] for name, value in expected.items()}, alone, _largest(expected)) > close:
        raise ModelError(f"the model's answer for an image depends on the others in its batch{_mixing(model, example)}")
    try:
        actual: Output = graph.forward(example)  # not __call__, which prints before it raises
    except RuntimeError as error:
        raise ModelError(
            f"the model's graph is bound to one batch size ({reason(error)}); "
            "take the batch size from the input's shape only in reshape or view."
        ) from error
    except Exception as error:
        raise ModelError(
            f"the graph of the model does not run ({reason(error)}); please report this with the model's source."
        ) from error
    if any(len(value) != len(example) for value in named(actual).values()):
        raise ModelError(
            "the model's graph is bound to one batch size: its forward goes through the images one by one, or makes tensors "
            "as long as the batch; let it work on all images at once"
        )
    difference = _apart(expected, named(actual))
    if not difference <= close:  # NaN is different, too
        if hooked := _hooked(model):
            raise ModelError(
                f"hooks change what the model computes (at {hooked}), and an exported file has none: put what they do "
                "into its forward, or remove them"
            )
        raise ModelError(
            f"preparing the model changed its output by {difference:.3g} of the largest number; "
            "please report this with the model's source."
        )
    return actual


def _run(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The model's answer in eval mode by name, as float32 on the CPU; modes are as before afterwards."""
    first = next((p for p in model.parameters() if p.is_floating_point()), images)
    with evaluating(model), _naming(model, len(images)):
        output = model(images.clone().to(first.device, first.dtype))
    return _comparable(output)


def _comparable(output: Output) -> dict[str, Tensor]:
    """Outputs by name, on the CPU, what is no whole number as float32."""
    found = {name: value.detach().cpu() for name, value in named_tensors(output).items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


@contextmanager
def _naming(model: nn.Module, batch: int) -> Iterator[None]:
    """Make what a model raises a message that names the module that was computing."""
    path: list[str] = []

    def leave(*_: object) -> None:
        path.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    except Exception as error:  # people's networks raise whatever they like
        where = path[-1] if path and path[-1] else "the model itself"
        raise ModelError(
            f"the model does not run on {batch} image{'s' if batch > 1 else ''}, at {where}: {reason(error)}. It must "
            "take any number of them"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _apart(one: dict[str, Tensor], other: dict[str, Tensor], scales: dict[str, float] | None = None) -> float:
    """The largest difference between outputs, as a share of the largest number in each."""
    scales = scales or _largest(one)
    shares = [math.inf]
    if all(value.shape == other[name].shape for name, value in one.items()):
        shares = [_share(value, other[name], scales[name]) for name, value in one.items()]
    return math.nan if any(map(math.isnan, shares)) else max(shares)


def _share(one: Tensor, other: Tensor, scale: float) -> float:
    if not one.is_floating_point():
        tied = float((one != other).double().mean())
        return tied if tied > TIED else 0.0
    difference = float((one - other.float()).abs().max())
    return difference if not difference > TINY else (difference - TINY) / scale if scale else math.inf


def _largest(outputs: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.double().abs().max()) for name, value in outputs.items()}


def _run_again(model: nn.Module, example: Tensor) -> tuple[dict[str, Tensor], bool]:
    """The model's answer, and whether weights, or a layer within autocast, are in half precision."""
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())

    def look(*_: object) -> None:
        nonlocal half
        half |= torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")

    hooks = [module.register_forward_pre_hook(look) for module in model.modules()]
    try:
        return _run(model, example), half
    finally:
        for hook in hooks:
            hook.remove()


def _culprits(model: nn.Module) -> str:
    broken = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    return f": its weight {broken[0]} is; load a sound checkpoint" if broken else ", for images of ordinary range"


def _mixing(model: nn.Module, images: Tensor) -> str:
    """The first module that gives other numbers for an image in a batch than for the image alone."""
    runs: list[list[tuple[nn.Module, Tensor, Tensor]]] = []
    for batch in (images, images[:1]):
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        hooks = [module.register_forward_hook(partial(_keep_first, seen)) for module in model.modules()]
        try:
            _run(model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        runs.append(seen)
    names = {module: name for name, module in model.named_modules()}
    for (module, x, y), (other, x_alone, y_alone) in zip(*runs, strict=False):
        if module is other and _same(x, x_alone) and not _same(y, y_alone):
            return f" at {names[module] or 'the model itself'} ({type(module).__name__})" + _advice(module)
    return ""


def _keep_first(
    seen: list[tuple[nn.Module, Tensor, Tensor]], module: nn.Module, args: tuple[object, ...], output: object
) -> None:
    """What a module reads and gives for the first image."""
    if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and args[0].dim() and output.dim():
        seen.append((module, args[0][:1].float().clone(), output[:1].float().clone()))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * float(one.abs().max()))


def _advice(module: nn.Module) -> str:
    if not hasattr(module, "running_mean"):
        return ": it must compute with every image by itself"
    return ": it normalizes by the batch; train it with running statistics, and leave it in eval mode"


def _hooked(model: nn.Module) -> str:
    names = [name or "the model itself" for name, module in model.named_modules() if any(hooks_of(module))]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
