"""Masks: how many they keep, and that they are the same again."""

import pytest
import torch

from ptq.reconstruction.drop_mask import DropMask
from ptq.utils.shares import all_shares

CPU = torch.device("cpu")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.5, 1.0])
def test_masks_keep_their_share(keep: float) -> None:
    mask = DropMask(keep, 0, CPU, pool=1 << 16)
    # Larger than the pool, too.
    for shape in ((50, 40, 5), (4, 32, 32, 32)):
        drawn = mask(torch.empty(shape))
        assert drawn.shape == shape
        assert drawn.dtype == torch.uint8
        assert set(drawn.unique().tolist()) <= {0, 1}
        assert abs(drawn.float().mean().item() - keep) < 0.02


def test_masks_differ_from_call_to_call_but_not_from_run_to_run() -> None:
    like = torch.empty(1000)
    first, again = DropMask(0.5, 7, CPU), DropMask(0.5, 7, CPU)
    drawn = [first(like).clone() for _ in range(3)]
    assert all(torch.equal(a, again(like)) for a in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], DropMask(0.5, 8, CPU)(like))


def test_masks_lie_in_memory_as_what_they_are_for() -> None:
    x, mask = torch.empty(2, 3, 8, 8), DropMask(0.5, 0, CPU, pool=1 << 12)
    for dense in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(0, 1)):
        assert mask(dense).stride() == dense.stride()
    for loose in (x[..., ::2], x.chunk(3, 1)[1], x[:1].expand(9, 3, 8, 8)):
        drawn = mask(loose)
        assert drawn.shape == loose.shape
        assert abs(drawn.float().mean().item() - 0.5) < 0.2


def test_masks_of_shares_are_those_of_the_batch() -> None:
    whole, x = DropMask(0.5, 3, CPU, 1 << 12), torch.zeros(10, 3, 4, 4)
    expected = [whole(x), whole(x)]
    for own in all_shares(10, 1, 3):
        mask = DropMask(0.5, 3, CPU, 1 << 12, share=own)
        for each in expected:
            assert torch.equal(mask(x[own.rows]), each[own.rows])
