"""Sizes of memory, as people write and read them."""

import re

from ptq.errors import InputError

__all__ = ["byte_count", "byte_text"]

_PREFIXES = "KMGT"
MOST = 2.0**64  # in any unit


def byte_count(text: str) -> int:
    """Return the bytes in "1GiB", "800MB", "512M", "1.5 TiB" or "4096".

    KB, MB, GB and TB are powers of 1000; KiB and K, MiB and M, ... are powers of 1024.

    Raises:
        InputError: when it is no size.

    Example:
        >>> byte_count("2K"), byte_count("2KiB"), byte_count("2kB")
        (2048, 2048, 2000)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"{number}\s*(?:([{_PREFIXES}])(IB|B)?|B)?", text.strip().upper())
    if found is None:
        raise InputError(f"--memory-limit: {text!r} is no size; give 1GiB, 800MB, 512M or bytes")
    amount, prefix, unit = found.groups()
    if float(amount) > MOST:
        raise InputError(f"--memory-limit: {text!r} is more than any machine has; give 1GiB, say")
    power = 0 if prefix is None else 1 + _PREFIXES.index(prefix)
    return int(float(amount) * (1000 if unit == "B" else 1024) ** power)


def byte_text(count: int) -> str:
    """Return a number of bytes in the largest binary unit of which it is at least one.

    Example:
        >>> byte_text(0), byte_text(3 << 19)
        ('0 B', '1.50 MiB')
    """
    for power in range(len(_PREFIXES), 0, -1):
        if count >= 1024**power:
            return f"{count / 1024**power:.2f} {_PREFIXES[power - 1]}iB"
    return f"{count} B"
