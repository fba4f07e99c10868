"""Networks as people write them: hooks, functional layers, constants, norms of all sorts, pools, wrappers.

`EXACT` maps a name to a factory of a network that must come out whole; `REFUSED` to a factory and the name that the
refusal must mention. Every network takes (N, 3, 16, 16).
"""

import sys
import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune, spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["EXACT", "REFUSED", "Body"]

Make = Callable[[], nn.Module]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Body(nn.Module):
    """Two convolutions, something between, a pool, a linear layer; what a test is about replaces a part."""

    def __init__(self, middle: nn.Module | None = None, pool: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second = conv(3, 16), conv(16, 16, 2)
        self.middle = nn.Identity() if middle is None else middle
        self.pool = pool or (lambda x: x.mean((2, 3)))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.second(self.middle(self.first(x)))))
        return logits


class Layer(nn.Module):
    """A module from a function of itself and its input, with parameters of the given shapes."""

    w: Tensor
    b: Tensor
    mean: Tensor
    var: Tensor
    gamma: Tensor

    def __init__(self, function: Callable[["Layer", Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape) / max(1.0, shape[-1] ** 0.5)))
        self.inner = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def layer(function: Callable[[Layer, Tensor], Tensor], **shapes: tuple[int, ...]) -> Make:
    return lambda: Body(Layer(function, **shapes))


def pooled(pool: Callable[[Tensor], Tensor]) -> Make:
    return lambda: Body(pool=pool)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class Tokens(nn.Module):
    """Convolution, then what works on (N, T, F), then a linear layer."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.first, self.parts, self.fc = conv(3, 16, 4), nn.Sequential(*parts), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.parts(tokens(self.first(x))).mean(1))
        return logits


class SelfAttention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


class ChannelAttention(nn.Module):
    """ECA (Wang et al., CVPR 2020): a Conv1d over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2)
        return x * torch.sigmoid(self.conv(y).transpose(-1, -2).unsqueeze(-1))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Conv1d(16, 16, 3, padding="same"), nn.BatchNorm1d(16), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x.flatten(2)).view_as(x)  # type: ignore[no-any-return]


class Frozen(nn.Module):
    """A BatchNorm by hand, as detection code has it: buffers, no class of torch's."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            self.register_buffer(name, torch.rand(channels) + low)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias - self.running_mean * scale.flatten()).reshape(1, -1, 1, 1)


class Subclassed(nn.BatchNorm2d):
    """A subclass that adds nothing."""


def with_norm(norm: Callable[[int], nn.Module]) -> Make:
    def make() -> nn.Module:
        net = Body()
        for part in (net.first, net.second):
            part[1] = norm(16)
        return net

    return make


def changed(change: Callable[[Body], object]) -> Make:
    """A body after `change`; what that returns takes its place, where it is a network."""

    def make() -> nn.Module:
        net = Body()
        new = change(net)
        return new if isinstance(new, nn.Module) else net

    return make


def normed(net: Body, norm: Callable[[nn.Module], object]) -> None:
    norm(net.second[0])
    net(torch.randn(2, 3, 16, 16))  # spectral norm looks at what it computes


class TrainReturnsNothing(Body):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class Checked(Body):
    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.Tensor):
            raise TypeError("not a tensor")
        return super().forward(x.to(torch.float32).type_as(self.fc.weight))


class Inference(Body):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Autocast(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class InputCalledOutput(Body):
    def forward(self, output: Tensor) -> Tensor:
        return super().forward(output)


class ListOfOne(Body):
    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [super().forward(x)]


class Masked(Body):
    """A mask of -inf, as attention has it."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__(pool=self.attend)
        self.register_buffer("mask", torch.zeros(64).index_fill(0, torch.arange(32, 64), -torch.inf))

    def attend(self, x: Tensor) -> Tensor:
        weights = torch.softmax(x.flatten(2).mean(1) + self.mask, -1)
        return (x.flatten(2) * weights[:, None]).sum(-1)


def awkward(net: Body) -> None:
    net.lock, net.code, net.rows = threading.Lock(), sys, (i for i in range(3))  # type: ignore[assignment]


def tied(module: Layer, x: Tensor) -> Tensor:
    y = F.relu(module.inner(x))
    return F.conv_transpose2d(y, module.inner.weight, padding=1)


def hook_that_scales(net: Body) -> None:
    net.second[0].register_forward_pre_hook(lambda _, args: (args[0] * 1.5,))


def hook_on_the_network(net: Body) -> None:
    net.register_forward_hook(lambda _, args, output: output * 2)


EXACT: Mapping[str, Make] = {
    "GeM": pooled(lambda x: x.clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)),
    "L2 pooling": pooled(lambda x: (x * x).mean((2, 3)).sqrt()),
    "log-mean-exp pooling": pooled(lambda x: torch.log(torch.exp(x).mean((2, 3)))),
    "deviation pooling": pooled(lambda x: (x - x.mean((2, 3), keepdim=True)).pow(2).mean((2, 3)).sqrt()),
    "softmax-weighted sum": pooled(lambda x: (x.flatten(2) * x.flatten(2).sum(1, keepdim=True).softmax(-1)).sum(-1)),
    "sorted and the largest": layer(lambda m, x: m.inner(x).sort(1).values + x.max(1, keepdim=True).values),
    "GELU between": layer(lambda m, x: F.gelu(m.inner(x)) + x),
    "AvgPool2d with a divisor": lambda: Body(nn.AvgPool2d(2, divisor_override=3)),
    "F.avg_pool2d with a divisor": layer(lambda m, x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5)),
    "AvgPool2d beyond the border": lambda: Body(nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)),
    "AvgPool2d beyond, border not counted": lambda: Body(nn.AvgPool2d(3, 2, 1, True, count_include_pad=False)),
    "sum pooling": pooled(lambda x: F.avg_pool2d(x, x.shape[2:], divisor_override=4).flatten(1)),
    "channel attention": lambda: Body(ChannelAttention()),
    "Conv1d": lambda: Body(OneDimensional()),
    "F.conv1d": layer(lambda m, x: F.conv1d(x.flatten(2), m.w, padding=1).view_as(x), w=(16, 16, 3)),
    "F.conv2d": layer(lambda m, x: F.relu(F.conv2d(x, m.w, m.b, padding=1)), w=(16, 16, 3, 3), b=(16,)),
    "F.conv_transpose2d": layer(lambda m, x: F.conv_transpose2d(x, m.w, m.b, stride=2), w=(16, 16, 2, 2), b=(16,)),
    "x @ W": layer(lambda m, x: (x.permute(0, 2, 3, 1) @ m.w).permute(0, 3, 1, 2), w=(16, 16)),
    "torch.addmm": pooled(lambda x: torch.addmm(torch.ones(16), x.mean((2, 3)), torch.eye(16).roll(1, 0))),
    "einsum over channels": layer(lambda m, x: torch.einsum("nchw,oc->nohw", x, m.w), w=(16, 16)),
    "einsum over the last": layer(
        lambda m, x: torch.einsum("...c,cd->...d", x.movedim(1, -1), m.w).movedim(-1, 1), w=(16, 16)
    ),
    "F.batch_norm": layer(
        lambda m, x: F.batch_norm(m.inner(x), m.mean, m.var.abs() + 0.5, m.w, m.b),
        mean=(16,),
        var=(16,),
        w=(16,),
        b=(16,),
    ),
    "layer scale": layer(lambda m, x: x + m.gamma * m.inner(x), gamma=(16, 1, 1)),
    "constants behind a layer": layer(lambda m, x: F.relu((m.inner(x) - 0.1) * 3 / 2 + m.b), b=(1, 16, 1, 1)),
    "SyncBatchNorm": changed(nn.SyncBatchNorm.convert_sync_batchnorm),
    "FrozenBatchNorm2d": with_norm(FrozenBatchNorm2d),
    "BatchNorm by hand": with_norm(Frozen),
    "a subclass of BatchNorm2d": with_norm(Subclassed),
    "BatchNorm1d over tokens": lambda: Tokens(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()),
    "BatchNorm2d over a width": lambda: Body(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm2d(16), nn.ReLU())),
    "MultiheadAttention": lambda: Tokens(SelfAttention()),
    "MultiheadAttention without bias": lambda: Tokens(SelfAttention(bias=False)),
    "TransformerEncoderLayer": lambda: Tokens(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
    "TransformerEncoder": lambda: Tokens(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True), 2)
    ),
    "weight_norm": changed(lambda net: normed(net, weight_norm)),
    "spectral_norm": changed(lambda net: normed(net, spectral_norm)),
    "pruned": changed(lambda net: prune.l1_unstructured(net.second[0], "weight", 0.3) is None),
    "train() returns nothing": TrainReturnsNothing,
    "DataParallel": changed(nn.DataParallel),
    "AveragedModel": changed(torch.optim.swa_utils.AveragedModel),
    "compiled": changed(lambda net: torch.compile(net)),
    "isinstance and casts": Checked,
    "inference_mode": Inference,
    "autocast": Autocast,
    "an input called output": InputCalledOutput,
    "a list of one": ListOfOne,
    "a mask of -inf": Masked,
    "a lock, a module, a generator": changed(awkward),
    "a layer's weight used again": layer(tied),
    "in double": changed(lambda net: net.double()),
}
REFUSED: Mapping[str, tuple[Make, str]] = {
    "a hook that scales": (changed(hook_that_scales), "second.0"),
    "a hook on the network": (changed(hook_on_the_network), "the model itself"),
    "BatchNorm without statistics": (with_norm(lambda c: nn.BatchNorm2d(c, track_running_stats=False)), "first.1"),
    "BatchNorm without statistics, of one pixel": (
        lambda: Body(
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16, track_running_stats=False), nn.Flatten())
        ),
        "pool.1",
    ),
    "a norm of one number": (
        lambda: Body(pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(16, 16), nn.Flatten())),
        "pool.1",
    ),
    "a squeeze that drops the batch": (pooled(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze()), "squeeze"),
    "dropout that never stops": (pooled(lambda x: F.dropout(x.mean((2, 3)), 0.5)), "training="),
    "a scripted network": (lambda: torch.jit.script(nn.Sequential(conv(3, 10))), "nn.Module"),
    "a scripted part": (lambda: Body(nn.Sequential(nn.ReLU(), torch.jit.script(nn.ReLU()))), "middle.1"),
    "weights of NaN": (changed(lambda net: net.fc.weight.data.fill_(torch.nan).numel()), "fc.weight"),
}
