"""Activations within a limit: in memory or on disk, the same values, and nothing left behind."""

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ptq.errors import MachineError
from ptq.utils import activation_cache
from ptq.utils.activation_cache import ActivationCache

SHAPES = [(12,), (12, 5), (12, 7, 3), (12, 3, 4, 6), (12, 2, 2, 2, 3)]
DTYPES = [torch.bfloat16, torch.float32]


def parts(*shape: int) -> list[Tensor]:
    """Pieces of unequal length that make up one tensor."""
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return list(whole.split(5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["disk", "memory"])
def test_what_is_gathered_comes_back(shape: tuple[int, ...], dtype: torch.dtype, limit: int, tmp_path: Path) -> None:
    cache, pieces = ActivationCache(limit, tmp_path), parts(*shape)
    result = cache.gather(iter(pieces), len(torch.cat(pieces)), dtype)
    assert result.dtype == dtype
    assert torch.equal(result, torch.cat(pieces).to(dtype))
    size = result.numel() * dtype.itemsize
    assert (cache.used, cache.disk) == ((size, 0) if limit else (0, size))
    # It can be worked on in place, as weights of errors are.
    assert torch.equal(result.mul_(2), 2 * torch.cat(pieces).to(dtype))


def test_images_are_channels_last_and_all_else_is_in_order() -> None:
    for shape in SHAPES:
        result = ActivationCache(1 << 20).gather(parts(*shape), 12)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        assert result.is_contiguous(memory_format=layout)


def test_what_fits_is_in_memory_and_the_rest_on_disk(tmp_path: Path) -> None:
    cache = ActivationCache(limit=250, folder=tmp_path)
    first, second = (cache.gather(parts(12, 5), 12) for _ in range(2))  # 120 bytes each
    assert (cache.used, cache.disk) == (240, 0)
    third = cache.gather(parts(12, 5), 12)
    assert (cache.used, cache.disk) == (240, 120)
    small = cache.gather(parts(5), 5)
    assert (cache.used, cache.disk) == (250, 120)
    assert torch.equal(first, second) and torch.equal(first, third)
    # Where there is room again, it is used.
    del first
    gc.collect()
    again = cache.gather(parts(12, 5), 12)
    assert (cache.used, cache.disk) == (250, 120)
    assert torch.equal(again, second) and len(small) == 5


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["disk", "memory"])
def test_tensors_count_until_the_last_view_of_them_is_gone(limit: int, tmp_path: Path) -> None:
    cache = ActivationCache(limit, tmp_path)

    def counted() -> int:
        gc.collect()
        return cache.used + cache.disk

    whole = cache.gather(parts(12, 3, 4, 6), 12)
    rows, turned = whole[2:4], whole.permute(0, 2, 3, 1)
    copied = whole.index_select(0, torch.tensor([1, 2]))
    del whole
    assert counted() == 12 * 72 * 2
    value = rows.sum()
    del rows
    assert counted() == 12 * 72 * 2
    pieces = turned.split(5)
    del turned
    assert counted() == 12 * 72 * 2
    del pieces
    assert counted() == 0
    assert bool(value.isfinite()) and copied.shape == (2, 3, 4, 6)


def test_peaks_stay_when_tensors_go(tmp_path: Path) -> None:
    cache = ActivationCache(limit=250, folder=tmp_path)
    held = [cache.gather(parts(12, 5), 12) for _ in range(5)]
    del held
    gc.collect()
    assert (cache.used, cache.disk) == (0, 0)
    assert (cache.peak, cache.peak_disk) == (240, 360)
    cache.gather(parts(12, 5), 12)
    assert (cache.peak, cache.peak_disk) == (240, 360)


def test_parts_are_computed_one_by_one_and_without_their_graphs() -> None:
    alive, leaf = list[int](), torch.ones(3, requires_grad=True)

    def computed() -> Iterator[Tensor]:
        for _ in range(4):
            alive.append(cache.used)
            yield leaf * torch.ones(2, 3)

    cache = ActivationCache(1 << 20)
    result = cache.gather(computed(), 8)
    assert alive == [0, 48, 48, 48]  # the first part says how large the whole will be
    assert not result.requires_grad


def test_files_have_no_names(tmp_path: Path) -> None:
    cache = ActivationCache(limit=0, folder=tmp_path)
    held = [cache.gather(parts(*shape), 12) for shape in SHAPES]
    assert cache.disk > 0
    assert list(tmp_path.iterdir()) == []
    del held


def test_a_full_disk_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    cache = ActivationCache(limit=0, folder=tmp_path)
    with pytest.raises(MachineError, match="No space left"):
        cache.gather(parts(12, 5), 12)
    assert list(tmp_path.iterdir()) == []
    assert cache.disk == cache.peak_disk == 0
    # ActivationCache is not concerned.
    assert len(ActivationCache(1 << 20, tmp_path).gather(parts(12, 5), 12)) == 12


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        ActivationCache(0, tmp_path / "gone").gather(parts(12, 5), 12)


def test_without_a_limit_half_of_what_is_free_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_cache, "free_bytes", lambda device: 4000 << 10)
    assert ActivationCache().limit == 2000 << 10
