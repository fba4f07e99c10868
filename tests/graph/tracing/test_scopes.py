"""Nodes know the building block of the original model they came from."""

from torch import Tensor, nn

from ptq.graph.tracing.scopes import mark_scopes
from ptq.graph.tracing.tracer import trace
from tests.helpers.networks import BasicBlock, build, images


def scopes(model: nn.Module) -> dict[str, str | None]:
    graph = trace(model, images(2))
    mark_scopes(graph, model)
    return {node.name: node.meta["scope"] for node in graph.graph.nodes if node.op != "output"}


def test_residual_blocks_own_their_layers_and_stages_own_nothing() -> None:
    found = scopes(build("resnet"))
    for index in range(3):
        block = f"blocks.{index}"
        mine = {name for name, scope in found.items() if scope == block}
        assert {f"blocks_{index}_conv1", f"blocks_{index}_conv2"} <= mine
    # Functions called in a block are the block's, too.
    assert [found[name] for name in ("add", "add_1", "add_2")] == ["blocks.0", "blocks.1", "blocks.2"]
    assert found["blocks_1_downsample_0"] == "blocks.1"
    assert found["stem_0"] is found["fc"] is found["x"] is None


def test_inverted_residuals_are_owners() -> None:
    found = scopes(build("mobilenet"))
    assert {scope for scope in found.values() if scope} == {"features.1", "features.2"}


class Stage(nn.Module):
    """Several blocks in a module of its own, which is no nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = BasicBlock(3, 4), BasicBlock(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def test_a_stage_of_blocks_leaves_its_layers_to_the_blocks() -> None:
    found = scopes(nn.Sequential(Stage().eval()))
    assert {scope for scope in found.values() if scope} == {"0.first", "0.second"}


def test_a_network_of_single_layers_has_no_owners() -> None:
    assert set(scopes(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))).values()) == {None}
