"""torch's attention modules taken apart into linear layers, products and a softmax, so that weights can be quantized.

nn.MultiheadAttention and nn.TransformerEncoderLayer compute in one fused call, which hides their matrices.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["plain_attention"]


def plain_attention(module: nn.Module) -> nn.Module | None:
    """Return a module made of nn.Linear that computes what an attention module computes; None for all others.

    Example:
        >>> attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        >>> x = torch.randn(1, 5, 8)
        >>> torch.allclose(plain_attention(attention)(x, x, x)[0], attention(x, x, x)[0], atol=1e-6)
        True
    """
    if isinstance(module, nn.MultiheadAttention) and _computes_as(module, nn.MultiheadAttention):
        return _Attention(module) if module.bias_k is None and not module.add_zero_attn else None
    if isinstance(module, nn.TransformerEncoderLayer) and _computes_as(module, nn.TransformerEncoderLayer):
        return _EncoderLayer(module)
    if isinstance(module, nn.TransformerEncoder) and _computes_as(module, nn.TransformerEncoder):
        return _Encoder(module)
    return None


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of that class, or of one that changes nothing in what it computes."""
    methods = ("forward", "_sa_block", "_ff_block")
    return all(getattr(type(module), name, None) is getattr(kind, name, None) for name in methods)


class _Attention(nn.Module):
    """Multi-head attention (Vaswani et al., NeurIPS 2017) with a linear layer each for query, key, value and output."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.width, self.batch_first = fused.num_heads, fused.head_dim, fused.batch_first
        if fused._qkv_same_embed_dim:
            assert fused.in_proj_weight is not None
            weights = list(fused.in_proj_weight.detach().chunk(3))
        else:
            weights = [w.detach() for w in (fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight)]
        no_bias = fused.in_proj_bias is None
        biases = [None] * 3 if no_bias else list(fused.in_proj_bias.detach().chunk(3))
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.out_proj = _linear(fused.out_proj.weight.detach(), fused.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values and, where asked for, the attention; shapes as nn.MultiheadAttention's."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        scores = torch.matmul(q / math.sqrt(self.width), k.transpose(-2, -1))
        if attn_mask is not None:
            lowest = torch.zeros_like(attn_mask, dtype=q.dtype)
            mask = lowest.masked_fill(attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else attn_mask
            scores = scores + (mask.unflatten(0, (-1, self.heads)) if mask.dim() == 3 else mask)
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask[:, None, None, :], -torch.inf)
        attention = scores.softmax(-1)
        out: Tensor = self.out_proj(torch.matmul(attention, v).transpose(1, 2).flatten(2))
        if not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        return out, attention.mean(1) if average_attn_weights else attention

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, heads, T, E / heads)."""
        parts: Tensor = x.unflatten(-1, (self.heads, self.width))
        return parts.transpose(1, 2)


class _EncoderLayer(nn.Module):
    """A transformer block: attention and two linear layers, each with a shortcut and a LayerNorm."""

    def __init__(self, fused: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.self_attn = plain_attention(fused.self_attn) or fused.self_attn
        self.linear1, self.linear2 = fused.linear1, fused.linear2
        self.norm1, self.norm2, self.norm_first = fused.norm1, fused.norm2, fused.norm_first
        self.activation: Callable[[Tensor], Tensor] = fused.activation

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return the block's output, shaped like `src`."""
        if self.norm_first:
            x = src + self._attend(self.norm1(src), src_mask, src_key_padding_mask)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + self._attend(src, src_mask, src_key_padding_mask))
        y: Tensor = self.norm2(x + self._feed_forward(x))
        return y

    def _attend(self, x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        y: Tensor = self.self_attn(x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=mask)[0]
        return y

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.activation(self.linear1(x)))
        return y


class _Encoder(nn.Module):
    """Transformer blocks in a row."""

    def __init__(self, fused: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = nn.ModuleList(plain_attention(layer) or layer for layer in fused.layers)
        self.norm = fused.norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return the last block's output, shaped like `src`."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask)
        y: Tensor = src if self.norm is None else self.norm(src)
        return y


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
