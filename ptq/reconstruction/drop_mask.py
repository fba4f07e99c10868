"""Which activations stay in float in an iteration, at random (QDrop, Wei et al., ICLR 2022)."""

import torch
from torch import Tensor

from ptq.utils.shares import Share

__all__ = ["DropMask"]


class DropMask:
    """Random masks that are 1 for a share `keep` of the elements and 0 elsewhere, at the cost of a view.

    A pool of random numbers is drawn once and read at random offsets: drawing fresh numbers for every
    element of every activation would take longer than the convolutions.

    Args:
        keep: 0..1; 0 leaves everything in float.
        seed: same seed, same masks.
        device: where the masks are needed.
        share: of the images of a batch, that masks are for; None for all. Masks of all shares together are that of the batch.
    """

    def __init__(
        self, keep: float, seed: int, device: torch.device, pool: int = 1 << 22, share: Share | None = None
    ) -> None:
        self.share = share
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = torch.rand(pool, generator=self.generator).lt(keep).to(torch.uint8).to(device)

    def __call__(self, like: Tensor) -> Tensor:
        """Return a uint8 mask in the shape of `like` and, where that is dense, in its layout."""
        count, before = like.numel(), 0
        if self.share is not None:
            an_image = count // (self.share.rows.stop - self.share.rows.start)
            count, before = an_image * self.share.count, an_image * self.share.rows.start
        while self.pool.numel() < 2 * count:
            self.pool = torch.cat([self.pool, self.pool.roll(7919)])
        offset = before + int(torch.randint(self.pool.numel() - count, (), generator=self.generator))
        # The strides of a view with gaps or repetitions would lead out of the pool.
        strides = torch.empty_like(like, device="meta").stride()
        return self.pool.as_strided(like.shape, strides, offset)
