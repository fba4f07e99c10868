"""The same kinds as in `tests.helpers.written_networks`, spelled otherwise.

Replaced forwards, products with constants, constants as long as the batch, wrappers within, arguments of all sorts.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import weight_norm

from tests.helpers.written_networks import Body, Layer, Make, Tokens, changed, layer, pooled, tokens, with_norm

__all__ = ["OTHERWISE", "REFUSED_OTHERWISE"]


def forward_replaced(part: Callable[[Body], nn.Module], by: Callable[[Tensor], Tensor]) -> Make:
    """A forward on a module in place of its class's, which calls that."""

    def change(net: Body) -> None:
        module = part(net)
        before = module.forward
        module.forward = lambda x: by(before(x))

    return changed(change)


def fused(net: Body) -> None:
    """As detection code does behind fusing a BatchNorm: `m.forward = m.forward_fuse`."""
    norm = net.first[1]
    norm.forward = types.MethodType(lambda self, x: F.relu(x) + 0.5, norm)


class EqualizedRate:
    """A hook that computes a weight from another, as StyleGAN does."""

    def __init__(self, module: nn.Module) -> None:
        weight = module._parameters.pop("weight")
        module.register_parameter("weight_orig", weight)
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, _: object) -> None:
        setattr(module, "weight", module.get_parameter("weight_orig") * 1.5)  # noqa: B010


class AnyArguments(Body):
    def forward(self, *args: Tensor, **options: Any) -> Tensor:
        return super().forward(args[0] * options.get("scale", 2))


class TrainTakesNothing(Body):
    def train(self) -> None:  # type: ignore[override]
        super().train(True)


class AskedForTensors(Body):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_tensor(x) or x.is_cuda or not x.is_floating_point():
            raise TypeError("no images")
        return super().forward(x)


class OfTorch(nn.Module):
    """torch.batch_norm takes its arguments in another order than F.batch_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        assert n.running_mean is not None and n.running_var is not None
        return torch.batch_norm(self.conv(x), n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False)


class Repeated(Tokens):
    """A class token, repeated for every image."""

    def __init__(self, repeat: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(nn.Linear(16, 16))
        self.token, self.repeat = nn.Parameter(torch.randn(1, 1, 16)), repeat

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.first(x))
        logits: Tensor = self.fc(self.parts(torch.cat([self.repeat(self.token, x), x], 1)).mean(1))
        return logits


class Recurrent(Tokens):
    """A GRU with a first state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 8, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.first(x))
        logits: Tensor = self.fc(self.gru(x, torch.zeros(2, x.size(0), 8).to(x.device))[0].mean(1))
        return logits


class Decoded(Tokens):
    """Learned queries, and torch's decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 16))
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.first(x))
        logits: Tensor = self.fc(self.decoder(self.queries.repeat(len(x), 1, 1), x).mean(1))
        return logits


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Positions(Body):
    """CoordConv (Liu et al., NeurIPS 2018): the position as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first[0] = nn.Conv2d(5, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        row = torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 1, x.shape[-2], -1)
        return super().forward(torch.cat([x, row, x.new_ones(len(x), 1, *x.shape[2:])], 1))


class Unpooled(Body):
    """Pixels go back to where they were largest, as in SegNet (Badrinarayanan et al., TPAMI 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.back = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        logits: Tensor = self.fc(self.pool(self.second(self.back(*self.largest(y)))))
        return logits


class Shifted(Body):
    """A temporal shift (Lin et al., ICCV 2019): parts of a tensor are written, and changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = torch.zeros_like(y)
        z[:, 1:] = y[:, :-1]
        z[:, :2] *= 2
        z[..., :8] -= 0.5 * z[..., 8:]
        logits: Tensor = self.fc(self.pool(self.second(y + z)))
        return logits


class Transformed(nn.Module):
    """A spatial transformer (Jaderberg et al., NeurIPS 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        matrices = self.locate(x.mean((2, 3))).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(matrices, list(x.size()), False), align_corners=False)


def called(name: str, module: nn.Module) -> nn.Module:
    parts = nn.Sequential()
    parts.add_module(name, module)
    return parts


class OwnEncoder(nn.TransformerEncoderLayer):
    """A subclass that adds nothing."""


def heads(m: Layer, x: Tensor) -> Tensor:
    return torch.einsum("nchw,khc->nkh", x.mean(2, keepdim=True), m.w).flatten(1)[:, :, None, None] + x


def conv1d(**options: Any) -> Make:
    return lambda: Body(nn.Sequential(nn.Flatten(2), nn.Conv1d(16, 16, **options), nn.Unflatten(2, (16, 16))))


OTHERWISE: Mapping[str, Make] = {
    "a forward replaced on a linear layer": forward_replaced(lambda net: net.fc, torch.tanh),
    "a forward replaced on a convolution": forward_replaced(lambda net: net.second[0], lambda y: y * 2),
    "a forward replaced on a ReLU": forward_replaced(lambda net: net.first[2], lambda y: y + 0.5),
    "a forward replaced on the network": forward_replaced(lambda net: net, lambda y: y * 3),
    "a forward replaced by a method": changed(fused),
    "a hook that computes a weight": changed(lambda net: EqualizedRate(net.second[0]) is None),
    "weight_norm before any call": changed(lambda net: weight_norm(net.second[0]) is None),
    "DataParallel within": changed(lambda net: setattr(net, "second", nn.DataParallel(net.second))),
    "any arguments": AnyArguments,
    "train() takes nothing": TrainTakesNothing,
    "torch.is_tensor": AskedForTensors,
    "a scripted function": layer(lambda m, x: m.inner(scripted(x))),
    "F.conv2d, same, of even size": layer(lambda m, x: F.conv2d(x, m.w, padding="same"), w=(16, 16, 4, 4)),
    "Conv2d, same, reflected": lambda: Body(nn.Conv2d(16, 16, 4, padding="same", padding_mode="reflect")),
    "Conv1d, same, of even size": conv1d(kernel_size=4, padding="same", dilation=3),
    "Conv1d, circular": conv1d(kernel_size=3, padding=1, padding_mode="circular"),
    "Conv3d": lambda: Body(
        nn.Sequential(nn.Unflatten(1, (16, 1)), nn.Conv3d(16, 16, (1, 3, 3), padding=(0, 1, 1)), nn.Flatten(1, 2))
    ),
    "F.linear by name": layer(lambda m, x: F.linear(weight=m.w, input=x), w=(16, 16)),
    "W @ x": layer(lambda m, x: (m.w @ x.flatten(2)).view_as(x), w=(16, 16)),
    "torch.bmm": layer(
        lambda m, x: torch.bmm(x.flatten(2).mT, m.w.expand(len(x), -1, -1)).mT.reshape(x.shape), w=(1, 16, 16)
    ),
    "torch.tensordot": layer(lambda m, x: torch.tensordot(x, m.w, ([1], [0])).permute(0, 3, 1, 2), w=(16, 16)),
    "torch.inner": layer(lambda m, x: torch.inner(x, m.w), w=(16, 16)),
    "einsum over heads": layer(heads, w=(4, 4, 16)),
    "einsum, the constant first": layer(lambda m, x: torch.einsum("oc,nchw->nhwo", m.w, x).movedim(-1, 1), w=(16, 16)),
    "einsum without a result": pooled(lambda x: torch.einsum("bc,cd", x.mean((2, 3)), torch.eye(16).roll(1, 0))),
    "torch.batch_norm": lambda: Body(OfTorch()),
    "a subclass of TransformerEncoderLayer": lambda: Tokens(OwnEncoder(16, 2, 32, batch_first=True)),
    "TransformerDecoder": Decoded,
    "a token repeated": lambda: Repeated(lambda token, x: token.repeat(len(x), 1, 1)),
    "a token expanded": lambda: Repeated(lambda token, x: token.expand_as(x[:, :1])),
    "a token plus zeros": lambda: Repeated(lambda token, x: token + torch.zeros(len(x), 1, 16)),
    "a first state of zeros": Recurrent,
    "channels of the position": Positions,
    "parts of a tensor written": Shifted,
    "max-unpooling": Unpooled,
    "a module called as a word of Python": lambda: Body(called("class", nn.Conv2d(16, 16, 1))),
    "a number from a weight": layer(lambda m, x: m.inner(x) * float(m.w.abs().max()), w=(16,)),
    "out=": layer(lambda m, x: (lambda y: torch.add(y, y, out=y) + y)(m.inner(x))),
    "a spatial transformer": lambda: Body(Transformed()),
}


def stripped(net: Body) -> None:
    norm = net.first[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = norm.running_var = None


class NormStaysInTraining(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.first[1].train()
        return super().forward(x)


class OneByOne(Body):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(OneByOne, self).forward(image[None]) for image in x])


class HalfWithin(Body):
    def __init__(self) -> None:
        super().__init__(pool=lambda x: x.mean((2, 3)).half())
        self.fc.half()


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Body()


REFUSED_OTHERWISE: Mapping[str, tuple[Make, str]] = {
    "BatchNorm whose statistics were taken": (changed(stripped), "first.1"),
    "BatchNorm that stays in training": (NormStaysInTraining, "first.1"),
    "F.batch_norm of the batch": (
        with_norm(lambda _: Layer(lambda m, x: F.batch_norm(x, None, None, training=True))),
        "first.1",
    ),
    "one image after the other": (OneByOne, "one by one"),
    "half precision within": (HalfWithin, "float32"),
    "weights on meta": (on_meta, "meta"),
    "quantized by torch": (changed(lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear})), "fc"),
    "an exported program": (
        changed(lambda net: torch.export.export(net.eval(), (torch.zeros(2, 3, 16, 16),)).module()),
        "nn.Module",
    ),
}
