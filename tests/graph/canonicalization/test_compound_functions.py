"""Functions of several operations are taken apart; the graph computes what the network computes, for any batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ptq.graph.fx_helpers import op_name
from ptq.graph.preparation import prepare
from tests.graph.test_spellings import Written
from tests.helpers.networks import SHAPE, images

FUNCTIONS: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "a stack read in parts": lambda m, x: torch.stack([m.first(x), m.second(x)], 1).unbind(1)[1:][0],
    "all pieces": lambda m, x: torch.cat(m.first(x).chunk(4, 1), 2),
    "every other piece": lambda m, x: torch.cat(m.first(x).unbind(1)[::2][::-1], 1),
    "uneven pieces": lambda m, x: torch.cat(torch.tensor_split(m.first(x), 3, 1)[::-1], 1),
    "pieces that are added": lambda m, x: sum(m.first(x).split(1, 1)[1:], m.second(x)[:, :1]),
    "a split attention": lambda m, x: (
        lambda y, w: (y.view(x.shape[0], 2, 2, 16, 16) * w.view(x.shape[0], 2, 2, 1, 1).softmax(1)).sum(1)
    )(m.first(x), m.second(x).mean((2, 3))),
    "a sum that keeps its dimension": lambda m, x: m.first(x).reshape(-1, 2, 2, 16, 16).sum(1, keepdim=True).flatten(1),
    "a learned lerp": lambda m, x: torch.lerp(m.first(x), m.second(x), torch.sigmoid(m.first(x))),
    "an expand to the batch": lambda m, x: m.first(x).unsqueeze(1).expand(x.shape[0], 3, 4, 16, 16).flatten(1, 2),
    "a broadcast": lambda m, x: torch.broadcast_to(m.first(x)[:, :1], (x.shape[0], 4, 16, 16)) * m.second(x),
    "halves of the width": lambda m, x: F.glu(m.first(x)),
    "rows picked": lambda m, x: m.first(x)[:, :, [5, 0, 0]],
    "a value": lambda m, x: torch.addcmul(m.first(x), m.second(x), m.first(x), value=-2.0),
}


def attention(shape: tuple[int, ...], **options: Any) -> Callable[[Written, Tensor], Tensor]:
    """Attention whose queries, keys and values are of a shape behind the images."""

    def compute(module: Written, x: Tensor) -> Tensor:
        q, k = (part(x).reshape(x.shape[0], *shape) for part in (module.first, module.second))
        return F.scaled_dot_product_attention(q, k, q + k, **options).reshape(x.shape[0], 4, 16, 16)

    return compute


FUNCTIONS |= {
    "attention without heads": attention((64, 16)),
    "attention with heads": attention((4, 32, 8), is_causal=True),
    "attention of windows": attention((4, 2, 16, 8)),
    "attention with a scale": attention((4, 2, 16, 8), scale=0.7),
    "attention of what was before": attention((4, 2, 16, 8), is_causal=True),
    "attention with a mask": attention((4, 2, 16, 8), attn_mask=torch.linspace(-2, 2, 256).reshape(16, 16)),
    "attention to some": attention((2, 2, 2, 16, 8), attn_mask=torch.eye(16) + torch.eye(16).roll(1) > 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_graph_computes_the_same(name: str) -> None:
    model = Written(FUNCTIONS[name]).eval()
    graph, x = prepare(model, SHAPE).module, images(5)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)
    left = {op_name(node) for node in graph.graph.nodes if node.op.startswith("call")}
    assert not left & {"glu", "lerp", "addcmul"}
