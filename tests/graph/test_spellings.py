"""Every spelling of an operation computes what the plain one computes, and is the same graph in the end."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.graph.fx_helpers import module_of, op_name
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.tasks.outputs import named
from tests.helpers.networks import SHAPE, images

Function = Callable[["Written", Tensor], Tensor]


class Written(nn.Module):
    """A function between convolutions."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.unshuffle, self.pad = nn.PixelUnshuffle(2), nn.ConstantPad2d((1, 0, 2, 1), 0.0)
        self.slope = nn.Parameter(torch.tensor(1.702))
        self.clip, self.largest = nn.Hardtanh(0.0, 1.0), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


PLAIN: dict[str, Function] = {
    "hard sigmoid": lambda m, x: F.hardsigmoid(m.first(x)),
    "steep hard sigmoid": lambda m, x: F.hardsigmoid(1.2 * m.first(x)),
    "hard swish": lambda m, x: F.hardswish(m.first(x)),
    "mish": lambda m, x: F.mish(m.first(x)),
    "softplus": lambda m, x: F.softplus(m.first(x)),
    "relu": lambda m, x: F.relu(m.first(x)),
    "relu6": lambda m, x: F.relu6(9 * m.first(x)),
    "sum": lambda m, x: F.relu(m.first(x)) + m.second(x),
    "difference": lambda m, x: F.relu(m.first(x)) - m.second(x),
    "gate": lambda m, x: F.relu(m.first(x)) * torch.sigmoid(m.second(x).mean((2, 3), keepdim=True)),
    "global average": lambda m, x: m.first(x).mean((2, 3), keepdim=True),
    "flat average": lambda m, x: torch.flatten(F.adaptive_avg_pool2d(m.first(x), 1), 1),
    "global maximum": lambda m, x: nn.MaxPool2d(16)(m.first(x)),
    "flat maximum": lambda m, x: torch.flatten(nn.MaxPool2d(16)(m.first(x)), 1),
    "pixel shuffle": lambda m, x: nn.PixelShuffle(2)(m.first(x)),
    "pixel unshuffle": lambda m, x: (
        m.first(x).reshape(-1, 4, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 16, 8, 8)
    ),
    "reshape": lambda m, x: m.first(x).reshape(-1, 8, 8, 16),
    "pad": lambda m, x: nn.ZeroPad2d((1, 0, 2, 1))(m.first(x)),
    "gelu": lambda m, x: F.gelu(m.first(x)),
    "gelu by tanh": lambda m, x: F.gelu(m.first(x), approximate="tanh"),
    "quick gelu": lambda m, x: F.silu(1.702 * m.first(x)) * (1 / 1.702),
    "leaky relu": lambda m, x: F.leaky_relu(m.first(x), 0.1),
    "scaled sum": lambda m, x: F.relu(m.first(x)) + 0.5 * m.second(x),
    "average of two": lambda m, x: (F.relu(m.first(x)) + m.second(x)) / 2,
    "halves": lambda m, x: (lambda y, g: y * torch.sigmoid(g))(*m.first(x).chunk(2, 1)),
    "halves turned": lambda m, x: torch.cat(m.first(x).chunk(2, 1)[::-1], 1),
    "channels picked": lambda m, x: m.first(x).index_select(1, torch.tensor([2, 0, 3])),
    "maximum": lambda m, x: torch.maximum(F.relu(m.first(x)), m.second(x)),
    "sum of pixels": lambda m, x: 256 * m.first(x).mean((2, 3), keepdim=True),
    "clamp": lambda m, x: nn.Hardtanh(-0.5, 0.7)(m.first(x)),
    "clamp of a sum": lambda m, x: nn.Hardtanh(-1.0, float("inf"))(m.first(x) + F.relu(m.second(x))),
    "relu of a pool": lambda m, x: F.max_pool2d(F.relu(m.first(x)), 2),
    "relu of a shuffle": lambda m, x: F.channel_shuffle(F.relu6(9 * m.first(x)), 2),
    "selective kernels": lambda m, x: (lambda a, b, w: a * w[:, 0] + b * w[:, 1])(
        F.relu(m.first(x)), m.second(x), torch.sigmoid(m.second(x).mean((2, 3), keepdim=True).reshape(-1, 2, 2, 1, 1)).repeat(1, 1, 2, 1, 1)
    ),
}  # fmt: skip
FLOAT = ("mish", "softplus", "gelu", "gelu by tanh", "maximum", "selective kernels")  # what has no integer kernel
SPELLINGS: dict[str, list[Function]] = {
    "hard sigmoid": [
        lambda m, x: F.relu6(m.first(x) + 3) / 6,
        lambda m, x: torch.clamp(m.first(x) / 6 + 0.5, 0, 1),
        lambda m, x: ((m.first(x) + 3) / 6).clamp(0, 1),
        lambda m, x: m.clip(0.5 + m.first(x) * 0.16666667),
        lambda m, x: F.hardtanh((m.first(x) + 3) * (1 / 6), 0.0, 1.0),
    ],
    "steep hard sigmoid": [
        lambda m, x: torch.clamp(0.2 * m.first(x) + 0.5, 0, 1),
        lambda m, x: F.relu6(m.first(x) * 1.2 + 3) / 6,
        lambda m, x: torch.clip((m.first(x) + 2.5) / 5, 0, 1),
    ],
    "hard swish": [
        lambda m, x: (lambda y: y * F.relu6(y + 3) / 6)(m.first(x)),
        lambda m, x: (lambda y: y * torch.clamp(y / 6 + 0.5, 0, 1))(m.first(x)),
        lambda m, x: (lambda y: y * (y + 3).clamp(0, 6) * (1 / 6))(m.first(x)),
        lambda m, x: nn.Hardswish(inplace=True)(m.first(x)),
    ],
    "mish": [
        lambda m, x: (lambda y: y * torch.tanh(F.softplus(y)))(m.first(x)),
        lambda m, x: (lambda y: nn.Softplus()(y).tanh() * y)(m.first(x)),
        lambda m, x: nn.Mish(inplace=True)(m.first(x)),
    ],
    "softplus": [lambda m, x: nn.Softplus()(m.first(x))],
    "relu": [
        lambda m, x: m.first(x).clamp(min=0),
        lambda m, x: F.threshold(m.first(x), 0, 0),
        lambda m, x: torch.clamp_min(m.first(x), 0),
    ],
    "relu6": [
        lambda m, x: (9 * m.first(x)).clamp(0, 6),
        lambda m, x: F.relu(9 * m.first(x)).clamp(max=6),
        lambda m, x: F.relu(9 * m.first(x)).clamp_max(6.0),
    ],
    "sum": [
        lambda m, x: torch.add(m.second(x), F.relu(m.first(x))),
        lambda m, x: F.relu(m.first(x)) - (-m.second(x)),
        lambda m, x: F.relu(m.first(x)) + 1.0 * m.second(x) + 0,
        lambda m, x: torch.stack([F.relu(m.first(x)), m.second(x)]).sum(0),
        lambda m, x: torch.stack((m.second(x), F.relu(m.first(x))), -1).sum(dim=-1),
    ],
    "difference": [
        lambda m, x: F.relu(m.first(x)) + torch.neg(m.second(x)),
        lambda m, x: F.relu(m.first(x)).sub(m.second(x)),
        lambda m, x: -m.second(x) + F.relu(m.first(x)),
    ],
    "gate": [
        lambda m, x: (lambda y, g: y * g.expand_as(y))(
            F.relu(m.first(x)), torch.sigmoid(m.second(x).mean(3).mean(2)[..., None, None])
        ),
        lambda m, x: (lambda y, g: g.expand(-1, -1, 16, 16) * y)(
            F.relu(m.first(x)), torch.sigmoid(F.adaptive_avg_pool2d(m.second(x), 1))
        ),
    ],
    "global average": [
        lambda m, x: m.first(x).mean(3, keepdim=True).mean(2, keepdim=True),
        lambda m, x: F.avg_pool2d(m.first(x), 16),
    ],
    "flat average": [
        lambda m, x: m.first(x).mean(3).mean(2),
        lambda m, x: m.first(x).mean(2).mean(-1),
        lambda m, x: m.first(x).flatten(2).mean(-1),
        lambda m, x: m.first(x).view(x.shape[0], 4, -1).mean(2),
        lambda m, x: m.first(x).mean((2, 3)),
    ],
    "global maximum": [
        lambda m, x: F.adaptive_max_pool2d(m.first(x), 1),
        lambda m, x: m.largest(m.first(x)),
        lambda m, x: torch.amax(m.first(x), (2, 3), keepdim=True),
    ],
    "flat maximum": [lambda m, x: m.first(x).amax(dim=(-2, -1)), lambda m, x: m.largest(m.first(x)).flatten(1)],
    "pixel shuffle": [lambda m, x: F.pixel_shuffle(m.first(x), 2)],
    "pixel unshuffle": [lambda m, x: F.pixel_unshuffle(m.first(x), 2), lambda m, x: m.unshuffle(m.first(x))],
    "reshape": [
        lambda m, x: m.first(x).view_as(torch.zeros(x.shape[0], 8, 8, 16)),
        lambda m, x: m.first(x).view(x.shape[0], 8, 8, 16),
    ],
    "gelu": [
        lambda m, x: (lambda y: 0.5 * y * (1 + torch.erf(y * 0.70710678)))(m.first(x)),
        lambda m, x: (lambda y: y * (torch.erf(y / 2**0.5) + 1) / 2)(m.first(x)),
    ],
    "gelu by tanh": [
        lambda m, x: (lambda y: 0.5 * y * (1 + torch.tanh(0.79788456 * (y + 0.044715 * y**3))))(m.first(x)),
        lambda m, x: (lambda y: y * 0.5 * (1 + torch.tanh(y * 0.7978846 * (1 + 0.044715 * y * y))))(m.first(x)),
        lambda m, x: (lambda y: y * torch.sigmoid(1.5957691 * (y + 0.044715 * torch.pow(y, 3))))(m.first(x)),
    ],
    "quick gelu": [
        lambda m, x: (lambda y: y * torch.sigmoid(1.702 * y))(m.first(x)),
        lambda m, x: (lambda y: (y * 1.702).sigmoid() * y)(m.first(x)),
        lambda m, x: (lambda y: y * torch.sigmoid(m.slope * y))(m.first(x)),
    ],
    "leaky relu": [
        lambda m, x: (lambda y: torch.where(y > 0, y, 0.1 * y))(m.first(x)),
        lambda m, x: (lambda y: torch.max(y, 0.1 * y))(m.first(x)),
        lambda m, x: (lambda y: F.relu(y) - 0.1 * F.relu(-y))(m.first(x)),
        lambda m, x: F.rrelu(m.first(x), 0.05, 0.15),
        lambda m, x: nn.RReLU(0.1, 0.1).eval()(m.first(x)),
    ],
    "scaled sum": [
        lambda m, x: torch.add(F.relu(m.first(x)), m.second(x), alpha=0.5),
        lambda m, x: F.relu(m.first(x)).sub(m.second(x), alpha=-0.5),
        lambda m, x: torch.addcmul(F.relu(m.first(x)), m.second(x), torch.tensor([1.0]), value=0.5),
        lambda m, x: torch.rsub(-0.5 * m.second(x), F.relu(m.first(x))),
    ],
    "average of two": [
        lambda m, x: torch.lerp(F.relu(m.first(x)), m.second(x), 0.5),
        lambda m, x: F.relu(m.first(x)).lerp(m.second(x), torch.tensor(0.5)),
        lambda m, x: torch.stack([F.relu(m.first(x)), m.second(x)], 2).mean(2),
    ],
    "halves": [lambda m, x: F.glu(m.first(x), 1), lambda m, x: nn.GLU(1)(m.first(x))],
    "halves turned": [
        lambda m, x: torch.cat(m.first(x).split(2, 1)[::-1], 1),
        lambda m, x: torch.cat(list(reversed(torch.chunk(m.first(x), 2, 1))), 1),
    ],
    "channels picked": [
        lambda m, x: m.first(x)[:, [2, 0, 3]],
        lambda m, x: m.first(x)[:, torch.tensor([2, 0, -1])],
        lambda m, x: m.first(x)[..., [2, 0, 3], :, :],
    ],
    "maximum": [
        lambda m, x: torch.max(m.second(x), F.relu(m.first(x))),
        lambda m, x: torch.fmax(F.relu(m.first(x)), m.second(x)),
    ],
    "sum of pixels": [
        lambda m, x: m.first(x).sum((2, 3), keepdim=True),
        lambda m, x: m.first(x).sum(dim=[-1, -2])[..., None, None],
    ],
    "clamp": [
        lambda m, x: m.first(x).clamp(-0.5, 0.7),
        lambda m, x: torch.clip(m.first(x), max=0.7, min=-0.5),
        lambda m, x: F.hardtanh(m.first(x), -0.5, 0.7),
    ],
    "clamp of a sum": [
        lambda m, x: (m.first(x) + F.relu(m.second(x))).clamp(min=-1),
        lambda m, x: torch.clamp_min(F.relu(m.second(x)) + m.first(x), -1.0),
    ],
    "relu of a pool": [
        lambda m, x: F.relu(F.max_pool2d(m.first(x), 2)),
        lambda m, x: nn.MaxPool2d(2)(m.first(x)).clamp(min=0),
    ],
    "relu of a shuffle": [
        lambda m, x: F.relu6(F.channel_shuffle(9 * m.first(x), 2)),
        lambda m, x: F.channel_shuffle(9 * m.first(x), 2).clamp(0, 6),
    ],
    "selective kernels": [
        lambda m, x: (lambda s, w: (s * w).sum(1))(
            torch.stack([F.relu(m.first(x)), m.second(x)], 1),
            torch.sigmoid(m.second(x).mean((2, 3), keepdim=True).reshape(-1, 2, 2, 1, 1)).repeat(1, 1, 2, 1, 1),
        )
    ],
    "pad": [lambda m, x: m.pad(m.first(x)), lambda m, x: F.pad(m.first(x), (1, 0, 2, 1))],
}


def kernels(graph: fx.GraphModule) -> list[str]:
    """What is computed, in alphabetical order, without what only names the same numbers otherwise."""
    found = []
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if node.op in ("call_function", "call_method", "call_module"):
            found.append(
                "pad" if isinstance(module, nn.ZeroPad2d) else type(module).__name__ if module else op_name(node)
            )
    same = {"split": "chunk", "select": "getitem"}
    found = [same.get(name, name) for name in found]
    return sorted(name for name in found if name not in ("flatten", "getitem", "unsqueeze"))


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, ways in SPELLINGS.items() for at in range(len(ways))])
def test_every_spelling_ends_in_the_same_kernels(name: str, at: int) -> None:
    plain, written, x = Written(PLAIN[name]).eval(), Written(SPELLINGS[name][at]).eval(), images(3)
    torch.testing.assert_close(written(x), plain(x), rtol=1e-5, atol=1e-5)
    graph, expected = prepare(written, SHAPE).module, prepare(plain, SHAPE).module
    torch.testing.assert_close(graph(x), plain(x), rtol=1e-5, atol=1e-5)
    assert kernels(graph) == kernels(expected)


class Beside(nn.Module):
    """All plain operations beside one another, a convolution behind each."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Written(PLAIN[name]) for name in names)
        torch.manual_seed(1)
        for weight in self.parts.parameters():
            nn.init.normal_(weight, std=0.3)  # equal layers would be one in the file
        self.heads = nn.ModuleList(nn.Conv2d(self._given(part).shape[1], 2, 1) for part in self.parts)

    @staticmethod
    def _given(part: nn.Module) -> Tensor:
        y: Tensor = part(torch.zeros(1, *SHAPE))
        return y

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        given = [part(x) for part in self.parts]
        return {
            f"out{i}": head(y if y.dim() == 4 else y[:, :, None, None])
            for i, (head, y) in enumerate(zip(self.heads, given, strict=True))
        }


@pytest.mark.slow
def test_operations_with_integer_kernels_are_computed_bit_for_bit(tmp_path: Path) -> None:
    names = [name for name in PLAIN if name not in FLOAT]
    model, x = Beside(names).eval().requires_grad_(False), images(4)
    graph_model = prepare(model, SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x, observer="minmax")
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    graph = ort.optimized(path)
    floats = [node.op_type for node in graph.node if node.name in ort.float_operators(graph)]
    simulated = named(quantized_model.integer_forward(x)).values()
    given = ort.run_all(ort.session(path), x.numpy())
    unequal = [
        name
        for name, one, other in zip(names, simulated, given, strict=True)
        if not torch.equal(one, torch.from_numpy(other))
    ]
    assert (ort.float_layers(graph), unequal) == ([], [])
    assert set(floats) == {"HardSigmoid"}  # that no product reads
