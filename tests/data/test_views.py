"""Views: several inputs move alike, and what is pasted is from another image of the batch."""

import torch

from ptq.data.views import pasted, random_views
from tests.helpers.networks import images


def test_images_of_several_inputs_are_moved_alike() -> None:
    large = images(8)
    small, number = large[..., ::2, ::2].contiguous(), torch.ones(8, 3)
    moved = random_views([large, small, number], torch.Generator().manual_seed(0))
    assert [y.shape for y in moved] == [x.shape for x in (large, small, number)]
    assert torch.equal(moved[2], number)
    alone = random_views([large], torch.Generator().manual_seed(0))
    assert torch.equal(moved[0], alone[0])


def test_another_image_covers_a_box_and_no_more_than_half() -> None:
    x = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        covered = (pasted(x, generator) != x).flatten(1).float().mean(1)
        assert covered.min() > 0.05 and covered.max() <= 0.55


def test_a_single_image_is_pasted_into_itself() -> None:
    assert pasted(images(1), torch.Generator().manual_seed(0)).shape == images(1).shape
