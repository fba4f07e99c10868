"""What stands between an image and a network, and what is refused there."""

import pytest
import torch

import ptq
from ptq.data.preprocess import Preprocess, numbers, pair

BASE = Preprocess((224, 224), 256, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.1, 0.5))


def test_normalize_is_per_channel() -> None:
    images = torch.rand(2, 3, 4, 5)
    out = BASE.normalize(images)
    assert out.shape == images.shape
    assert torch.allclose(out[:, 1], (images[:, 1] - 0.4) / 0.1)


def test_a_new_size_keeps_the_share_of_the_crop() -> None:
    smaller = BASE.override(size=112)
    assert (smaller.size, smaller.resize) == ((112, 112), 128)
    assert BASE.override(size=112, resize=112).resize == 112
    assert BASE.override() == BASE


def test_numbers_stand_for_all_sides_and_channels() -> None:
    assert pair(7) == pair([7]) == (7, 7)
    assert pair((3, 4)) == (3, 4)
    assert numbers(0.5) == numbers([0.5]) == (0.5,)
    assert BASE.override(mean=0.5).mean == (0.5, 0.5, 0.5)


def test_values_for_bytes_are_those_for_shares_times_255() -> None:
    of_bytes = BASE.override(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    shares = BASE.override(mean=[v / 255 for v in (123.7, 116.3, 103.5)], std=[v / 255 for v in (58.4, 57.1, 57.4)])
    assert of_bytes == shares
    assert BASE.override(mean=[0] * 3, std=[64] * 3).normalize(torch.ones(1, 3, 1, 1)).max() == pytest.approx(255 / 64)
    assert BASE.override(mean=[0] * 3, std=[255] * 3) == BASE.override(mean=[0] * 3, std=[1] * 3)


def test_levels_are_what_bytes_become() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    seen, levels = BASE.normalize(image.float() / 255), BASE.levels()
    assert levels.shape == (3, 256)
    assert all(torch.allclose(seen[0, c], levels[c][image[0, c]]) for c in range(3))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 0}, "0, 0"),
        ({"size": (1, 2, 3)}, "1, 2, 3"),
        ({"resize": 100}, "--resize .* 224"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"mean": (0.1, 0.2)}, "0.1, 0.2"),
        ({"mean": (float("nan"),) * 3}, "mean"),
        ({"std": (0.1, 0.0, 0.1)}, "std"),
        ({"mean": (123.7, 116.3, 103.5)}, "0..255"),
        ({"std": (64.0, 64.0, 64.0)}, "0..255"),
    ],
)
def test_nonsense_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ptq.InputError, match=says):
        BASE.override(**change)  # type: ignore[arg-type]


def test_channels_are_made_of_colors() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(Preprocess.of(4, channels="BGR", range=1).normalize(images), images.flip(1))
    gray = Preprocess.of(4, channels="L", range=1).normalize(images)
    assert torch.allclose(gray, (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True))
    four = Preprocess.of(4, channels="RGBA", range=1).normalize(images)
    assert torch.equal(four[:, :3], images) and bool((four[:, 3] == 1).all())
    several = Preprocess.of(4, channels="RGB,L", range=1)
    both = several.normalize(images)
    assert several.input_shape == (4, 4, 4) and several.levels().shape == (4, 256)
    assert torch.equal(both[:, :3], images) and torch.allclose(both[:, 3:], gray.flip(3))


def test_bytes_go_in_as_they_are() -> None:
    assert Preprocess.of(4, range=255).normalize(torch.ones(1, 3, 4, 4)).max() == pytest.approx(255)
    assert Preprocess.of(4, range=255, mean=(104, 117, 123)).mean == pytest.approx([v / 255 for v in (104, 117, 123)])
    assert Preprocess.of(4, range=255, mean=1, std=2) == Preprocess.of(4, mean=1 / 255, std=2 / 255)
    assert Preprocess.of(4, range=1) == Preprocess.of(4, mean=0, std=1)


def test_new_channels_keep_what_is_known_of_each_color() -> None:
    assert BASE.override(channels="BGR").mean == (0.3, 0.4, 0.5)
    assert BASE.override(channels="BGR", mean=(1, 1, 1)).mean == (1, 1, 1)
    assert BASE.override(channels="L").mean == (0.449,)
    for channels in ("", "XYZ", "RGBAL", "RGB,", "rgb"):
        with pytest.raises(ptq.InputError):
            Preprocess.of(4, channels=channels)
    with pytest.raises(ptq.InputError):
        Preprocess.of(4, range=127)


@pytest.mark.parametrize("channels", ["RGB", "BGR", "L", "RGBA", "L,RGB"])
def test_noise_is_noise_for_every_network(channels: str) -> None:
    preprocess = Preprocess.of(4, channels=channels, mean=0.4, std=0.2)
    values = torch.randn(2, 3, 4, 4)
    assert torch.allclose(preprocess.denormalize(values), 0.4 + 0.2 * values)
