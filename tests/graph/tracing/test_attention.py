"""torch's attention, in all its forms, becomes linear layers that can be quantized, and computes the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2

import ptq
from ptq.graph.preparation import GraphModel
from ptq.graph.tracing.attention import plain_attention

WIDTH, HEADS = 12, 3
SHAPE = (3, 16, 16)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 8, "vdim": 10}])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": torch.ones(5, 7).triu(1).bool()},
        {"attn_mask": torch.linspace(-1, 1, 35).reshape(5, 7), "need_weights": False},
        {"attn_mask": torch.ones(2 * HEADS, 5, 7).triu(2).bool()},
        {"key_padding_mask": torch.arange(7).expand(2, 7) > 4},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_attention_computes_the_same(
    batch_first: bool, bias: bool, widths: dict[str, int], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first, **widths).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    sizes = WIDTH, widths.get("kdim", WIDTH), widths.get("vdim", WIDTH)
    tokens = [torch.randn(2, length, size) for length, size in zip((5, 7, 7), sizes, strict=True)]
    given = tokens if batch_first else [x.transpose(0, 1) for x in tokens]
    plain = plain_attention(attention)
    assert plain is not None
    assert sum(isinstance(module, nn.Linear) for module in plain.modules()) == 4
    for mine, theirs in zip(plain(*given, **options), attention(*given, **options), strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


class Encoder(nn.Module):
    """Patches, an encoder, and a head; tokens come first where a layer wants that."""

    def __init__(self, batch_first: bool, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=batch_first, **options)
        self.patches, self.batch_first = nn.Conv2d(3, WIDTH, 4, 4), batch_first
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = self.encoder(x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1))
        y: Tensor = self.head(x.mean(1 if self.batch_first else 0))
        return y


def swin(**options: Any) -> nn.Module:
    network: nn.Module = SwinTransformer([2, 2], WIDTH, [2, 2], [HEADS, HEADS], [4, 4], num_classes=5, **options)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "encoder": (lambda: Encoder(True), 13),
    "tokens first": (lambda: Encoder(False, norm_first=True), 13),
    "no bias, GELU": (lambda: Encoder(True, bias=False, activation="gelu"), 13),
    "swin": (swin, 18),
    "swin v2": (lambda: swin(block=SwinTransformerBlockV2), 18),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_linear_layer_is_quantized(name: str) -> None:
    torch.manual_seed(0)
    make, count = NETWORKS[name]
    network = make().eval()
    graph_model: GraphModel = ptq.prepare(network, SHAPE)
    images = graph_model.example(3)
    torch.testing.assert_close(graph_model.module(images), network(images), rtol=1e-4, atol=1e-5)
    linear = [node.name for node in graph_model.module.graph.nodes if _is_linear(graph_model, node)]
    assert len(linear) == count
    assert set(linear) <= set(ptq.make_plan(graph_model, 8).weights)


def _is_linear(graph_model: GraphModel, node: Any) -> bool:
    return node.op == "call_module" and isinstance(graph_model.module.get_submodule(node.target), nn.Linear)
