"""Views: several inputs move alike, and what is pasted is from another image of the batch."""

import torch

from ptq.data.views import pasted, random_crops, random_views
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


def test_a_crop_shows_a_part_of_its_image() -> None:
    x = torch.linspace(0, 1, 16).expand(64, 1, 16, 16)
    crops = random_crops(x, 0.25, torch.Generator().manual_seed(0))
    assert crops.shape == x.shape
    spans = crops[:, 0, 0].amax(1) - crops[:, 0, 0].amin(1)
    assert bool((crops >= 0).all() and (crops <= 1).all())
    assert float(spans.min()) > 0.4 and float(spans.max()) <= 1 and float(spans.std()) > 0.05


def test_a_crop_of_all_of_an_image_is_that_or_its_mirror_image() -> None:
    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    crops = random_crops(x, 1.0, torch.Generator().manual_seed(0))
    same, mirrored = ((crops - other).abs().amax((1, 2, 3)) < 1e-5 for other in (x, x.flip(3)))
    assert bool((same | mirrored).all()) and 4 < int(mirrored.sum()) < 28
