"""Random small networks, for properties that must hold of every network.

A `Network` is built from a `Spec`: plain data, a list of steps that each read earlier tensors and append new ones. `specs`
draws them with hypothesis, which can therefore shrink a network that fails to the few steps that matter. Every
network takes (N, *spec.shape) and returns (N, 5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.networks import with_statistics

__all__ = ["Network", "Spec", "Step", "images", "specs"]

CLASSES = 5
MOST_CHANNELS = 16
MOST_PIXELS = 16  # a side
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "leaky": nn.LeakyReLU,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "hardtanh": lambda: nn.Hardtanh(0.0, 6.0),
    "dropout": nn.Dropout,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "leaky": F.leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(0, 6),
    "positive": lambda x: x.clamp(min=0),
    "bounded": lambda x: torch.clamp(x, -1.0, 1.0),
    "in place": F.relu_,
    "tanh in place": lambda x: x.tanh_(),
    "double in place": lambda x: x.mul_(2),
    "elu in place": lambda x: F.elu(x, 1.0, True),
}
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One operation.

    Args:
        kind: what is computed.
        reads: indices of tensors; the network's input is 0, every step appends what it gives.
        facts: what `kind` needs besides.
    """

    kind: str
    reads: tuple[int, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A network as data.

    Args:
        shape: (C, H, W) of the input.
        steps: in order of computation.
        head: how the last tensor becomes (N, CLASSES): "pool", "mean", "flatten", "hidden" or "conv".
        seed: of the weights.
        gain: of the weights, over what keeps variances.
    """

    shape: Shape
    steps: tuple[Step, ...]
    head: str
    seed: int
    gain: float = 1.0


class Network(nn.Module):
    """What a spec describes, in eval mode, with BatchNorms as after training.

    Example:
        >>> Network(spec)(images(spec, 2)).shape
        torch.Size([2, 5])
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.spec = spec
        self.parts = nn.ModuleDict()
        shapes = [spec.shape]
        for index, step in enumerate(spec.steps):
            self._add(f"s{index}", step, shapes[step.reads[0]])
            shapes += shapes_of(step, shapes)
        channels, height, width = shapes[-1]
        if spec.head == "conv":
            self.parts["head"] = nn.Conv2d(channels, CLASSES, 1)
        elif spec.head == "hidden":
            self.parts["hidden"] = nn.Linear(channels, 8)
            self.parts["head"] = nn.Linear(8, CLASSES)
        else:
            flat = channels * height * width if spec.head == "flatten" else channels
            self.parts["head"] = nn.Linear(flat, CLASSES)
        with_statistics(self, spec.seed).requires_grad_(False)
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(spec.gain)

    def _add(self, name: str, step: Step, shape: Shape) -> None:
        """Make the modules of a step; one that calls an earlier step's has none of its own."""
        channels, facts = shape[0], step.facts
        outputs = facts.get("channels", channels)
        if step.kind in ("conv", "functional"):
            self.parts[name] = nn.Conv2d(
                channels,
                outputs,
                facts["kernel"],
                facts["stride"],
                facts["padding"],
                facts["dilation"],
                facts["groups"],
                facts["bias"],
                facts.get("mode", "zeros"),
            )
        elif step.kind == "transposed":
            self.parts[name] = nn.ConvTranspose2d(
                channels,
                outputs,
                facts["kernel"],
                facts["stride"],
                facts["padding"],
                facts["stride"] - 1,
                facts["groups"],
                facts["bias"],
            )
        elif step.kind == "gate":
            self.parts[f"{name}_squeeze"] = nn.Conv2d(channels, 4, 1)
            self.parts[f"{name}_excite"] = nn.Conv2d(4, channels, 1)
            self.parts[f"{name}_act"] = ACTIVATIONS[facts["act"]]()
        elif step.kind == "max":
            self.parts[name] = nn.MaxPool2d(2, facts["stride"], facts["padding"])
        elif step.kind == "average":
            self.parts[name] = nn.AvgPool2d(2, facts["stride"], facts["padding"])
        elif step.kind == "global":
            self.parts[name] = nn.AdaptiveAvgPool2d(1)
        elif step.kind == "same":
            self.parts[name] = nn.Conv2d(channels, outputs, facts["kernel"], padding="same", dilation=facts["dilation"])
        elif step.kind == "last":
            self.parts[name] = nn.Linear(channels, outputs, facts["bias"])
        elif step.kind == "float norm":
            self.parts[name] = nn.GroupNorm(1, channels)
        elif step.kind == "affine":
            self.parts[name] = nn.Conv2d(channels, channels, 1, groups=channels)  # holds gain and shift
        elif step.kind == "upsample":
            self.parts[name] = nn.Upsample(scale_factor=2)
        elif step.kind == "pixel_shuffle":
            self.parts[name] = nn.PixelShuffle(2)
        if step.kind == "norm" or facts.get("norm"):
            self.parts[f"{name}_norm"] = nn.BatchNorm2d(outputs)
        if "act" in facts and step.kind != "gate" and not facts.get("plain"):
            made = ACTIVATIONS[facts["act"]]()
            if facts.get("inplace") and hasattr(made, "inplace"):
                setattr(made, "inplace", True)  # noqa: B010
            self.parts[f"{name}_act"] = made

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x]
        for index, step in enumerate(self.spec.steps):
            tensors += self._run(f"s{index}", step, [tensors[i] for i in step.reads])
        return self._classify(tensors[-1])

    def _run(self, name: str, step: Step, reads: list[Tensor]) -> list[Tensor]:
        facts, x = step.facts, reads[0]
        match step.kind:
            case "conv" | "transposed" | "norm" | "act":
                x = self.parts[name](x) if name in self.parts else x
            case "functional":
                conv = self.parts[name]
                assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)
                x = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
            case "again":
                x = self.parts[f"s{facts['step']}"](x)
            case "add" | "multiply":
                x = _joined(step.kind, facts["spelling"], *reads)
            case "cat":
                x = torch.cat(reads, 1)
            case "chunk":
                halves = x.chunk(2, 1) if facts["spelling"] else torch.split(x, x.shape[1] // 2, 1)
                return [halves[0], halves[1]]
            case "gate":
                gate = F.relu(self.parts[f"{name}_squeeze"](F.adaptive_avg_pool2d(x, 1)))
                return [x * self.parts[f"{name}_act"](self.parts[f"{name}_excite"](gate))]
            case "shuffle":
                n, c, h, w = x.shape
                x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            case "pad":
                x = F.pad(x, facts["sides"])
            case "scale":
                x = x * facts["by"] + facts["plus"]
            case "cut":
                x = (x[:, 1:], x[:, ::2], x[..., 1:], x.narrow(1, 0, 1))[facts["spelling"]]
            case "last":
                x = self.parts[name](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "affine":
                made = self.parts[name]
                assert isinstance(made, nn.Conv2d) and made.bias is not None
                x = x * made.weight.view(1, -1, 1, 1) + made.bias.view(-1, 1, 1)
            case "mean":
                x = x.mean((2, 3), keepdim=True)
            case "flip":
                x = torch.flip(x, (3,))
            case _:
                x = self.parts[name](x)
        if f"{name}_norm" in self.parts:
            x = self.parts[f"{name}_norm"](x)
        if "act" not in facts or facts["act"] == "none":
            return [x]
        return [FUNCTIONS[facts["act"]](x) if facts.get("plain") else self.parts[f"{name}_act"](x)]

    def _classify(self, x: Tensor) -> Tensor:
        head = self.parts["head"]
        if self.spec.head == "conv":
            logits: Tensor = head(x).mean((2, 3))
        elif self.spec.head == "flatten":
            logits = head(torch.flatten(x, 1))
        elif self.spec.head == "mean":
            logits = head(x.mean([2, 3]))
        else:
            x = F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
            logits = head(F.relu(self.parts["hidden"](x)) if self.spec.head == "hidden" else x)
        return logits


def _joined(kind: str, spelling: int, a: Tensor, b: Tensor) -> Tensor:
    """Two tensors made one, in one of the ways to write it; the last of each kind changes `a` itself."""
    if kind == "add":
        if spelling == 3:
            a += b
            return a
        return (a + b, torch.add(a, b), a.add(b))[spelling]
    if spelling == 3:
        a -= b
        return a
    return (a * b, torch.mul(a, b), a - b)[spelling]


def images(spec: Spec, count: int, seed: int = 1) -> Tensor:
    """Return seeded numbers as normalized images (count, *spec.shape)."""
    return torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(seed))


def shapes_of(step: Step, shapes: list[Shape]) -> list[Shape]:
    """The shapes of what a step gives, one for each tensor that it appends."""
    facts = step.facts
    channels, height, width = shapes[step.reads[0]]
    outputs = facts.get("channels", channels)
    match step.kind:
        case "conv" | "functional" | "again":
            reach = facts["dilation"] * (facts["kernel"] - 1) + 1
            sides = ((s + 2 * facts["padding"] - reach) // facts["stride"] + 1 for s in (height, width))
            return [(outputs, next(sides), next(sides))]
        case "transposed":
            stride, less = (facts["stride"], facts["kernel"] - 2 * facts["padding"] + facts["stride"] - 1)
            return [(outputs, (height - 1) * stride + less, (width - 1) * stride + less)]
        case "cat":
            return [(sum(shapes[i][0] for i in step.reads), height, width)]
        case "chunk":
            return [(channels // 2, height, width)] * 2
        case "max" | "average":
            more = 2 * facts["padding"] - 2
            return [(channels, (height + more) // facts["stride"] + 1, (width + more) // facts["stride"] + 1)]
        case "global" | "mean":
            return [(channels, 1, 1)]
        case "same" | "last":
            return [(outputs, height, width)]
        case "cut":
            return [
                (
                    (channels - 1, height, width),
                    (-(-channels // 2), height, width),
                    (channels, height, width - 1),
                    (1, height, width),
                )[facts["spelling"]]
            ]
        case "add" | "multiply":
            other = shapes[step.reads[1]]
            return [(channels, max(height, other[1]), max(width, other[2]))]
        case "upsample":
            return [(channels, 2 * height, 2 * width)]
        case "pixel_shuffle":
            return [(channels // 4, 2 * height, 2 * width)]
        case "pad":
            left, right, top, bottom = facts["sides"]
            return [(channels, height + top + bottom, width + left + right)]
        case _:
            return [(channels, height, width)]


@st.composite
def specs(draw: st.DrawFn, most_steps: int = 12) -> Spec:
    """Draw a network of 1 to `most_steps` steps."""
    shape = (3, draw(st.integers(5, 12)), draw(st.integers(5, 12)))
    shapes: list[Shape] = [shape]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, most_steps))):
        step = _step(draw, shapes, steps)
        made = shapes_of(step, shapes)
        if all(_sensible(one) for one in made) and _has_border(step, shapes):
            steps.append(step)
            shapes += made
    head = draw(st.sampled_from(("pool", "mean", "flatten", "hidden", "conv")))
    gain = draw(st.sampled_from((1.0, 0.25, 3.0, 0.0, 1e-3)))
    return Spec(shape, tuple(steps), head, draw(st.integers(0, 3)), gain)


def _sensible(shape: Shape) -> bool:
    return min(shape) >= 1 and shape[0] <= MOST_CHANNELS and max(shape[1:]) <= MOST_PIXELS


def _has_border(step: Step, shapes: list[Shape]) -> bool:
    """Whether there are pixels enough for what a convolution reflects."""
    reflects = step.facts.get("mode") == "reflect"
    return not reflects or step.facts["padding"] < min(shapes[step.reads[0]][1:])


KINDS = (
    "conv",
    "depthwise",
    "functional",
    "transposed",
    "norm",
    "act",
    "again",
    "add",
    "multiply",
    "cat",
    "chunk",
    "gate",
    "max",
    "average",
    "upsample",
    "pixel_shuffle",
    "shuffle",
    "pad",
    "scale",
    "global",
    "same",
    "last",
    "float norm",
    "affine",
    "cut",
    "mean",
    "flip",
)


def _step(draw: st.DrawFn, shapes: list[Shape], steps: list[Step]) -> Step:
    """Draw a step that fits the tensors there are; a convolution where what was drawn does not."""
    kind = draw(st.sampled_from(KINDS))
    # The newest tensors most of all: what nobody reads is not part of the network.
    source = max(0, len(shapes) - 1 - draw(st.integers(0, 3)) * draw(st.integers(0, 1)))
    channels, height, width = shapes[source]
    partners = [i for i, s in enumerate(shapes) if s in (shapes[source], (channels, 1, 1))]
    flat = [i for i, s in enumerate(shapes) if s[1:] == shapes[source][1:]]
    match kind:
        case "add" | "multiply":
            other = draw(st.sampled_from(partners))
            return Step(kind, (source, other), {"spelling": draw(st.integers(0, 3)), **_act(draw)})
        case "cat":
            return Step(kind, (source, draw(st.sampled_from(flat))), {})
        case "again":
            fitting = [i for i, s in enumerate(steps) if s.kind == "conv" and shapes[s.reads[0]][0] == channels]
            if fitting:
                index = draw(st.sampled_from(fitting))
                facts = {k: v for k, v in steps[index].facts.items() if k not in ("norm", "act", "plain")}
                return Step(kind, (source,), {**facts, "step": index, **_act(draw)})
        case "chunk" | "shuffle" if channels % 2 == 0:
            return Step(kind, (source,), {"spelling": draw(st.integers(0, 1))})
        case "pixel_shuffle" if channels % 4 == 0:
            return Step(kind, (source,), {})
        case "max" | "average" if min(height, width) >= 2:
            return Step(kind, (source,), {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))})
        case "global" | "mean" | "float norm" | "affine" | "flip":
            return Step(kind, (source,), {})
        case "cut":
            return Step(kind, (source,), {"spelling": draw(st.integers(0, 3))})
        case "same" | "last":
            sizes = {
                "kernel": draw(st.integers(1, 4)),
                "dilation": draw(st.integers(1, 2)),
                "bias": draw(st.booleans()),
            }
            return Step(kind, (source,), {"channels": draw(st.integers(1, MOST_CHANNELS)), **sizes, **_act(draw)})
        case "upsample" | "gate" | "norm" | "act":
            act = {} if kind in ("upsample", "norm") else _act(draw)
            if kind == "gate":
                act = {"act": draw(st.sampled_from(("sigmoid", "hardsigmoid")))}
            return Step(kind, (source,), act)
        case "pad":
            return Step(kind, (source,), {"sides": tuple(draw(st.integers(0, 2)) for _ in range(4))})
        case "scale":
            numbers = draw(st.sampled_from(((2.0, 0.0), (0.5, 1.0), (-1.0, 0.0))))
            return Step(kind, (source,), {"by": numbers[0], "plus": numbers[1]})
        case _:
            pass
    return _layer(draw, kind, source, channels, min(height, width))


def _layer(draw: st.DrawFn, kind: str, source: int, channels: int, side: int) -> Step:
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = channels if kind == "depthwise" else draw(st.sampled_from((1, 1, *divisors)))
    outputs = groups * draw(st.integers(1, max(1, MOST_CHANNELS // groups)))
    if kind == "depthwise":
        outputs = channels
    facts = {"channels": outputs, "groups": groups, "bias": draw(st.booleans()), **_act(draw)}
    facts["norm"] = draw(st.booleans())
    if kind == "transposed":
        kernel = draw(st.integers(1, 3))
        stride = draw(st.integers(1, 2))
        sizes = {"kernel": kernel, "stride": stride, "padding": draw(st.integers(0, (kernel - 1) // 2))}
        return Step(kind, (source,), {**facts, **sizes})
    kernel, dilation = draw(st.sampled_from((1, 2, 3, 5))), draw(st.integers(1, 2))
    reach = dilation * (kernel - 1) + 1
    least = max(0, -(-(reach - side) // 2))
    padding = max(least, draw(st.integers(0, reach // 2)))
    facts |= {"kernel": kernel, "dilation": dilation, "padding": padding, "stride": draw(st.integers(1, 2))}
    if kind != "functional" and padding and padding < side:
        facts["mode"] = draw(st.sampled_from(("zeros", "zeros", "reflect", "replicate")))
    return Step("functional" if kind == "functional" else "conv", (source,), facts)


def _act(draw: st.DrawFn) -> dict[str, Any]:
    plain = draw(st.booleans())
    names = sorted(FUNCTIONS) if plain else sorted(ACTIVATIONS)
    act = draw(st.sampled_from(("relu", "relu", *names)))
    return {"act": act, "plain": plain, "inplace": draw(st.booleans())}
