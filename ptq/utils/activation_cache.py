"""Where activations of the calibration images are kept between blocks: on the device, or past a limit on disk."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ptq.errors import MachineError
from ptq.utils.device import free_bytes
from ptq.utils.files import TEMPORARY

__all__ = ["ActivationCache"]

CPU = torch.device("cpu")
ALL = slice(None)
SHARE = 0.5  # of the free memory, by default


class ActivationCache:
    """Keeps tensors within a limit; what does not fit is memory-mapped from files without a name.

    Args:
        limit: bytes of tensors in the device's memory; half of what is free when not given.
        folder: for the files; the system's folder for temporary files when not given. They are deleted
            while in use, so that no crash leaves one behind.
        device: that computes with them. In a GPU's memory they need not be brought there in every iteration.

    Attributes:
        peak: most bytes of tensors that were in memory at a time.
        peak_disk: most bytes that were on disk.

    Example:
        >>> cache = ActivationCache(limit=1 << 30)
        >>> cache.gather([torch.rand(8, 3), torch.rand(8, 3)], 16).shape
        torch.Size([16, 3])
    """

    def __init__(self, limit: int | None = None, folder: Path | None = None, device: torch.device = CPU) -> None:
        self.limit = int(SHARE * free_bytes(device)) if limit is None else limit
        self.folder, self.device = folder, device
        self.used = self.peak = self.disk = self.peak_disk = 0

    def gather(self, parts: Iterable[Tensor], count: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Return the parts, computed one by one, as one tensor of `count` rows in `dtype`, on the device if it fits there.

        Images are kept in channels-last order, in which convolutions read them.

        Raises:
            MachineError: when they fit neither in memory nor on the disk.
        """
        return self.gather_named(({"": part} for part in parts), count, dtype)[""]

    def gather_named(
        self, parts: Iterable[Mapping[str, Tensor]], count: int, dtype: torch.dtype = torch.bfloat16, rows: slice = ALL
    ) -> dict[str, Tensor]:
        """Return parts of several tensors, computed together, as `gather` returns those of one.

        Args:
            parts: by name, one after the other.
            count: rows of the whole.
            dtype: to keep them in.
            rows: that the parts are, if they are not all; the others are not filled.

        Raises:
            MachineError: when they fit neither in memory nor on the disk.
        """
        results: dict[str, Tensor] = {}
        first, end, _ = rows.indices(count)
        row = first
        for part in parts:
            length = 0
            for name, value in part.items():
                if row == first:
                    results[name] = self._empty((count, *value.shape[1:]), dtype)
                results[name][row : row + len(value)] = value.detach()
                length = len(value)
            row += length
        assert row == end or not results, "the parts are as many rows as promised"
        return results

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        elements = 1
        for side in shape:
            elements *= side
        size = elements * dtype.itemsize
        fits = self.used + size <= self.limit
        flat = torch.empty(elements, dtype=dtype, device=self.device) if fits else self._mapped(elements, dtype)
        self._count(size, fits)
        # Views keep the base alive: it is what is watched.
        weakref.finalize(flat.untyped_storage(), self._count, -size, fits)
        if len(shape) != 4:
            return flat.view(shape)
        n, c, h, w = shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)

    def _mapped(self, elements: int, dtype: torch.dtype) -> Tensor:
        try:
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self.folder)
            try:
                if hasattr(os, "posix_fallocate"):  # elsewhere a full disk shows in writing only
                    os.posix_fallocate(handle, 0, max(1, elements * dtype.itemsize))
                return torch.from_file(name, shared=True, size=elements, dtype=dtype)
            finally:
                os.close(handle)
                Path(name).unlink()
        except OSError as error:
            raise MachineError(
                f"activations need {elements * dtype.itemsize >> 20} MiB more than the memory limit, and there is "
                f"no room for them on disk ({error.strerror}): raise --memory-limit or take fewer images."
            ) from error

    def _count(self, size: int, in_memory: bool) -> None:
        if in_memory:
            self.used += size
            self.peak = max(self.peak, self.used)
        else:
            self.disk += size
            self.peak_disk = max(self.peak_disk, self.disk)
