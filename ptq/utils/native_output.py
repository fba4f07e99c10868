"""What compiled libraries print, which no Python setting reaches."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["native_output_hidden"]

STDOUT = 1


@contextmanager
def native_output_hidden() -> Iterator[None]:
    """Send what is written to the process's standard output nowhere, as long as the context lasts.

    HiGHS 1.12 prints a line of debugging now and then, whatever it is told. Standard output may be what another program reads.

    Example:
        >>> with native_output_hidden():
        ...     _ = os.system("echo a line of another program")
    """
    _flush()  # what libraries printed before is not to be lost
    try:
        kept = os.dup(STDOUT)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, STDOUT)
        os.close(kept)
        os.close(nowhere)


def _flush() -> None:
    """Have C's buffers written. Python's own are others, and stay until Python writes them."""
    with suppress(OSError, AttributeError, TypeError):  # Windows has no library of this name
        ctypes.CDLL(None).fflush(None)
