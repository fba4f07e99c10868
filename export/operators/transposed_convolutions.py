"""Transposed convolutions as convolutions whose channels become pixels (Shi et al., CVPR 2016, arXiv 1609.05158).

onnxruntime has integer kernels for convolutions, and none for transposed ones. With stride s an output pixel is a sum over every
s-th tap of the kernel, the same taps for all pixels that lie s apart. So a convolution computes all s * s sorts of pixels
as channels, and a shuffle puts them where they belong. The numbers are the same: an integer kernel adds the same products.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["SplitConvolution", "split_transposed"]

MOST = 2.0
"""How many times as many multiplications the convolution may take: an integer one does three in the time of a float one."""
FEWEST = 8  # channels of a group; with fewer, integer kernels take longer than the float one of transposed convolutions


@dataclass(frozen=True)
class _Axis:
    """What is computed along an axis: pixel m of sort c is the sum over its taps of weight[tap] * input[m - before + place].

    Args:
        taps: (sort, tap of the transposed kernel, place in the kernel of the convolution).
        size: of that kernel.
        before, behind: zeros around the input.
        cut: pixels that are left out at the beginning and at the end.
    """

    taps: tuple[tuple[int, int, int], ...]
    size: int
    before: int
    behind: int
    cut: tuple[int, int]


@dataclass(frozen=True)
class SplitConvolution:
    """A transposed convolution as a convolution and a shuffle.

    Args:
        rows, columns: what is computed along them.
        stride: of the transposed convolution, down and across.
        groups: of channels.
    """

    rows: _Axis
    columns: _Axis
    stride: tuple[int, int]
    groups: int

    @property
    def sorts(self) -> int:
        """How many channels of the convolution become one of the result."""
        return math.prod(self.stride)

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Zeros around the input of the convolution: top, left, bottom, right."""
        return self.rows.before, self.columns.before, self.rows.behind, self.columns.behind

    @property
    def cuts(self) -> tuple[int, int, int, int]:
        """Pixels that are left out of what is shuffled: top, left, bottom, right."""
        return self.rows.cut[0], self.columns.cut[0], self.rows.cut[1], self.columns.cut[1]

    def weight(self, transposed: Tensor) -> Tensor:
        """Return the weight of the convolution.

        Args:
            transposed: (C_in, C_out / groups, height, width).

        Returns:
            (C_out * sorts, C_in / groups, height, width) of the same numbers, and zeros; sorts lie row by row.
        """
        given = transposed.reshape(self.groups, -1, *transposed.shape[1:]).transpose(1, 2)
        outputs, inputs = given.shape[1:3]
        size = self.rows.size, self.columns.size
        made = given.new_zeros(self.groups, outputs, *self.stride, inputs, *size)
        for down, row, y in self.rows.taps:
            for across, column, x in self.columns.taps:
                made[:, :, down, across, :, y, x] = given[..., row, column]
        return made.reshape(-1, inputs, *size)

    def per_channel(self, values: Tensor) -> Tensor:
        """Return one number for every channel of the convolution, of one for every channel of the result, (C_out,)."""
        return values.repeat_interleave(self.sorts)


def split_transposed(layer: nn.ConvTranspose2d) -> SplitConvolution | None:
    """Return a transposed convolution as a convolution and a shuffle; None where that would take longer.

    It would where the convolution takes more than `MOST` times as many multiplications: all sorts share one size of kernel,
    and are zero where they have no tap. It would where a group has fewer than `FEWEST` channels.

    Example:
        >>> split = split_transposed(nn.ConvTranspose2d(8, 6, 4, 2, 1))
        >>> split.weight(torch.ones(8, 6, 4, 4)).shape, split.pads, split.cuts
        (torch.Size([24, 8, 2, 2]), (1, 1, 1, 1), (1, 1, 1, 1))
    """
    rows, columns = (_axis(layer, at) for at in (0, 1))
    if rows is None or columns is None or (layer.groups > 1 and layer.in_channels // layer.groups < FEWEST):
        return None
    stride = layer.stride[0], layer.stride[1]
    more = rows.size * columns.size * math.prod(stride) / math.prod(layer.kernel_size)
    return SplitConvolution(rows, columns, stride, layer.groups) if more <= MOST else None


def _axis(layer: nn.ConvTranspose2d, at: int) -> _Axis | None:
    """The smallest kernel along an axis; None where part of the input would be left out."""
    stride, padding, dilation = layer.stride[at], layer.padding[at], layer.dilation[at]
    assert isinstance(padding, int)
    # Output pixels beyond `stride` for each of the input: as many rows as the input has, and `more`.
    longer = dilation * (layer.kernel_size[at] - 1) + layer.output_padding[at] + 1 - 2 * padding - stride
    ways = []
    for cut in range(stride):
        # Output pixel stride * m + sort - cut reads input pixel m + offset at a tap, where the division is even.
        reach = [
            (sort, tap, divmod(sort + padding - cut - tap * dilation, stride))
            for sort in range(stride)
            for tap in range(layer.kernel_size[at])
        ]
        offsets = [(sort, tap, offset) for sort, tap, (offset, rest) in reach if rest == 0]
        first, last = min(o for _, _, o in offsets), max(o for _, _, o in offsets)
        more = math.ceil((longer + cut) / stride)
        taps = tuple((sort, tap, offset - first) for sort, tap, offset in offsets)
        ways.append(_Axis(taps, last - first + 1, -first, more + last, (cut, more * stride - longer - cut)))
    possible = [way for way in ways if way.before >= 0 and way.behind >= 0]
    return min(possible, key=lambda way: (way.size, sum(way.cut)), default=None)
