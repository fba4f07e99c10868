"""Branches that add up are one convolution, and the output stays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, fx, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.config.choices import KeptBranches
from ptq.graph.fx_helpers import module_of, op_name
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.storage import load_quantized, save_quantized
from tests.helpers.networks import images, with_statistics

CHANNELS = 4
SHAPE = (CHANNELS, 9, 8)


@dataclass(frozen=True)
class Branch:
    """One term of a sum: a convolution, an average or the identity, with or without BatchNorm."""

    kind: str
    kernel: tuple[int, int] = (1, 1)
    dilation: int = 1
    groups: int = 1
    norm: bool = False
    sign: int = 1

    def module(self, stride: int) -> nn.Module:
        padding = tuple(self.dilation * (side // 2) for side in self.kernel)
        made: nn.Module
        if self.kind == "conv":
            sizes = (self.kernel, stride, padding, self.dilation, self.groups)
            made = nn.Conv2d(CHANNELS, CHANNELS, *sizes, bias=not self.norm)  # type: ignore[arg-type]
        else:
            made = nn.AvgPool2d(3, stride, 1) if self.kind == "average" else nn.Identity()
        return nn.Sequential(made, nn.BatchNorm2d(CHANNELS)) if self.norm else made


class Summed(nn.Module):
    """Branches of one tensor, added and subtracted."""

    def __init__(self, branches: list[Branch], stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.signs = [branch.sign for branch in branches]
        self.branches = nn.ModuleList(branch.module(stride) for branch in branches)
        self.last = nn.Conv2d(CHANNELS, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for sign, branch in zip(self.signs[1:], list(self.branches)[1:], strict=True):
            total = total + branch(x) if sign > 0 else total - branch(x)
        result: Tensor = self.last(torch.relu(total))
        return result


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def count(graph_model: GraphModel, kind: type[nn.Module] | str) -> int:
    """How many modules of a kind, or operations of a name, there are."""
    graph: fx.GraphModule = graph_model.module
    if isinstance(kind, str):
        return sum(op_name(node) == kind for node in graph.graph.nodes)
    return sum(isinstance(module_of(graph, node), kind) for node in graph.graph.nodes)


def random_images(stretch: int = 1) -> Tensor:
    return torch.randn(3, CHANNELS, SHAPE[1] * stretch, SHAPE[2], generator=torch.Generator().manual_seed(1))


ODD = st.sampled_from((1, 3, 5))
BRANCHES = st.builds(
    Branch,
    st.just("conv"),
    st.tuples(ODD, ODD),
    st.integers(1, 2),
    st.sampled_from((1, 2, CHANNELS)),
    st.booleans(),
    st.sampled_from((1, -1)),
)
SIMPLE = st.builds(Branch, st.sampled_from(("average", "identity")), norm=st.booleans(), sign=st.sampled_from((1, -1)))


@settings(max_examples=25)
@given(st.lists(BRANCHES | SIMPLE, min_size=1, max_size=5), st.integers(1, 2), st.sampled_from(("none", "identities")))
def test_folding_keeps_the_output(branches: list[Branch], stride: int, kept: KeptBranches) -> None:
    branches = [b for b in branches if b.kind != "identity" or stride == 1] or [Branch("conv")]
    model, x = with_statistics(Summed(branches, stride)), random_images()
    with torch.no_grad():
        assert apart(prepare(model, SHAPE, keep_branches=kept).module(x), model(x)) < 1e-5


LARGE, SMALL = Branch("conv", (3, 3), norm=True), Branch("conv", norm=True)
SUMS: dict[str, list[Branch]] = {
    "RepVGG": [LARGE, SMALL, Branch("identity", norm=True)],
    "depthwise": [Branch("conv", (3, 3), groups=CHANNELS), Branch("conv", groups=CHANNELS), Branch("identity")],
    "grouped": [Branch("conv", (3, 3), groups=2), Branch("conv", groups=CHANNELS), Branch("identity", sign=-1)],
    "asymmetric": [Branch("conv", (1, 3)), Branch("conv", (3, 1)), LARGE],
    "dilated": [Branch("conv", (3, 3), 2), SMALL, Branch("identity")],
    "average": [Branch("average", sign=-1), Branch("conv", (3, 3), groups=CHANNELS), Branch("identity")],
    "residual": [Branch("identity"), Branch("conv", (3, 3), sign=-1)],
}


@pytest.mark.parametrize("name", SUMS)
def test_known_branches_become_one_convolution(name: str) -> None:
    model = with_statistics(Summed(SUMS[name]))
    folded = prepare(model, SHAPE)
    assert (count(folded, nn.Conv2d), count(folded, "add"), count(folded, "sub")) == (2, 0, 0)
    x = random_images(2)
    with torch.no_grad():
        assert apart(folded.module(x), model(x)) < 1e-5


@pytest.mark.parametrize(("name", "convolutions", "sums"), [("RepVGG", 3, 1), ("residual", 2, 1), ("depthwise", 2, 0)])
def test_identities_can_stay_beside_what_is_not_depthwise(name: str, convolutions: int, sums: int) -> None:
    folded = prepare(with_statistics(Summed(SUMS[name])), SHAPE, keep_branches="identities")
    assert (count(folded, nn.Conv2d), count(folded, "add") + count(folded, "sub")) == (convolutions, sums)


class Scaled(nn.Module):
    """As FastViT's mixers: branches in a scaled sum in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.norm, self.scale = nn.BatchNorm2d(CHANNELS), nn.Parameter(torch.rand(CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x) - self.norm(x)
        return x + self.scale * mixed


def test_scaled_sums_in_sums_fold_too() -> None:
    model, x = with_statistics(Scaled()), random_images()
    folded = prepare(model, SHAPE)
    assert len(folded.module.graph.nodes) == 3
    with torch.no_grad():
        assert apart(folded.module(x), model(x)) < 1e-5


def reflecting() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect")


def read_twice(m: nn.Module, x: Tensor) -> Tensor:
    y = m(x)
    total: Tensor = y + x
    return total * torch.sigmoid(y)


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "zeros at the border do not count": (lambda: nn.AvgPool2d(3, 1, 1, False, False), lambda m, x: m(x) - x),
    "reflected borders": (reflecting, lambda m, x: m(x) + x),
    "read by others": (lambda: nn.Conv2d(CHANNELS, CHANNELS, 1), read_twice),
    "more multiplications": (lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS), lambda m, x: m(x)),
}


class Other(nn.Module):
    """A sum of which one term is a dense convolution of one pixel, and another as given."""

    def __init__(self, name: str) -> None:
        super().__init__()
        make, self.function = DIFFERENT[name]
        self.made, self.dense = make(), nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        dense: Tensor = self.dense(x)
        return dense + self.function(self.made, x)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_inexact_or_costs_more_stays(name: str) -> None:
    model, x = Other(name).eval(), random_images()
    folded = prepare(model, SHAPE)
    assert count(folded, "add") + count(folded, "sub") >= 1
    assert count(folded, type(model.made)) >= 1
    with torch.no_grad():
        assert apart(folded.module(x), model(x)) < 1e-5


class Residual(nn.Module):
    """Two branches and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.one(x) + self.two(x)).mean((2, 3))
        logits: Tensor = self.last(y)
        return logits


def test_the_file_of_a_quantized_model_remembers_that_branches_were_kept(tmp_path: Path) -> None:
    model = Residual()
    graph_model = prepare(model, (3, 16, 16), keep_branches="all")
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), images(4))
    save_quantized(quantized_model, tmp_path / "kept.safetensors", {"model": None})
    again = load_quantized(tmp_path / "kept.safetensors", model)
    assert again.layers().keys() == {"one", "two", "last"}
    assert torch.equal(again.integer_forward(images(2)), quantized_model.integer_forward(images(2)))
