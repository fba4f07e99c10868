"""Networks built from specs, for properties that must hold of every network.

Every network takes (N, *spec.shape) and returns (N, CLASSES). `tests.helpers.network_strategies` draws specs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.network_specs import CLASSES, Shape, Spec, Step, shapes_of
from tests.helpers.networks import with_statistics
from tests.helpers.written_parts import PARTS

__all__ = ["ACTIVATIONS", "FUNCTIONS", "Network"]

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


class Network(nn.Module):
    """What a spec describes, in eval mode, with BatchNorms as after training."""

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
        elif step.kind == "written":
            self.parts[name] = PARTS[facts["which"]](channels)
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
