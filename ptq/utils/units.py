"""All numbers as people read them, and sizes of memory as they write them: one spelling for each quantity."""

import math
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from ptq.errors import InputError

__all__ = [
    "byte_count",
    "byte_text",
    "count_text",
    "decibel_text",
    "duration_text",
    "file_size_text",
    "latency_text",
    "limit_text",
    "nats_text",
    "number_text",
    "percent_text",
    "range_text",
    "ratio_text",
    "short_text",
    "thread_text",
]

_PREFIXES = "KMGT"
MOST = 2.0**64  # in any unit


def byte_count(text: str, option: str = "--memory-limit") -> int:
    """Return the bytes in "1GiB", "800MB", "512M", "1.5 TiB" or "4096".

    KB, MB, GB and TB are powers of 1000; KiB and K, MiB and M, ... are powers of 1024.

    Args:
        text: a size.
        option: that says it, for the message.

    Raises:
        InputError: when it is no size.

    Example:
        >>> byte_count("2K"), byte_count("2KiB"), byte_count("2kB")
        (2048, 2048, 2000)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"{number}\s*(?:([{_PREFIXES}])(IB|B)?|B)?", text.strip().upper())
    if found is None:
        raise InputError(f"{option}: {text!r} is no size; give 1GiB, 800MB, 512M or bytes")
    amount, prefix, unit = found.groups()
    if float(amount) > MOST:
        raise InputError(f"{option}: {text!r} is more than any machine has; give 1GiB, say")
    power = 0 if prefix is None else 1 + _PREFIXES.index(prefix)
    scale: int = (1000 if unit == "B" else 1024) ** power
    return round(float(amount) * scale)


def byte_text(count: int) -> str:
    """Return bytes of memory in the largest binary unit of which they are at least one.

    Example:
        >>> byte_text(0), byte_text(3 << 19)
        ('0 B', '1.50 MiB')
    """
    for power in range(len(_PREFIXES), 0, -1):
        if count >= 1024**power:
            return f"{count / 1024**power:.2f} {_PREFIXES[power - 1]}iB"
    return f"{count} B"


def file_size_text(count: float, *, up: bool = False) -> str:
    """Return bytes of a file in powers of 1000, as file managers do.

    Args:
        count: of bytes.
        up: whether to round up, so that a file of this size has room for so many.

    Example:
        >>> file_size_text(32_327), file_size_text(5_010_999), file_size_text(32_327, up=True)
        ('32.3 kB', '5.01 MB', '32.4 kB')
    """
    if count < 1e3:
        return f"{count:.0f} B"
    step, decimals, unit, size = (1e4, 2, "MB", 1e6) if count >= 1e5 else (1e2, 1, "kB", 1e3)
    return f"{(math.ceil(count / step) * step if up else count) / size:.{decimals}f} {unit}"


def limit_text(value: float, digits: int = 3, *, up: bool) -> str:
    """Return a number in so many digits that count, rounded to one side: what is said to be possible must be.

    Example:
        >>> limit_text(0.30112, up=True), limit_text(5.9999, up=False), limit_text(6.0, up=True)
        ('0.302', '5.99', '6')
    """
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    return f"{Context(prec=digits, rounding=rounding).create_decimal(Decimal(value)).normalize():f}"


def number_text(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return a number with so many decimals, with a minus as wide as a plus; nothing for None.

    Example:
        >>> number_text(-0.5), number_text(0.5, 1, sign=True), number_text(float("inf")), number_text(None)
        ('−0.50', '+0.5', '∞', '')
    """
    if value is None:
        return ""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("inf", "∞").replace("-", "−")


def short_text(value: float) -> str:
    """Return a number with four digits that count, and without zeros at its end.

    Example:
        >>> short_text(0.49803921), short_text(256.0)
        ('0.498', '256')
    """
    return f"{value:.4g}".replace("-", "−")


def count_text(count: int) -> str:
    """Return a number of things with three digits that count, in thousands, millions or billions.

    Example:
        >>> count_text(950), count_text(40_813_184), count_text(1_819_066_368)
        ('950', '40.8 M', '1.82 G')
    """
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            value = count / 10**power
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return str(count)


def percent_text(value: float, digits: int = 2) -> str:
    """Return a percentage, 0..100.

    Example:
        >>> percent_text(87.75), percent_text(66.6, 0)
        ('87.75 %', '67 %')
    """
    return f"{number_text(value, digits)} %"


def latency_text(milliseconds: float) -> str:
    """Return a latency.

    Example:
        >>> latency_text(4.5)
        '4.50 ms'
    """
    return f"{number_text(milliseconds)} ms"


def duration_text(seconds: float) -> str:
    """Return a time that somebody waits, as people say it.

    Example:
        >>> [duration_text(seconds) for seconds in (0.42, 42, 156, 4500)]
        ['0.4 s', '42 s', '2.6 min', '1.2 h']
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3597 else f"{seconds / 3600:.1f} h"


def decibel_text(value: float) -> str:
    """Return a signal to noise ratio in dB, without the unit: tables name it once.

    Example:
        >>> decibel_text(18.94), decibel_text(float("-inf"))
        ('18.9', '−∞')
    """
    return number_text(value, 1)


def nats_text(value: float) -> str:
    """Return a divergence in nats, without the unit; a tiny one by its order of magnitude.

    Example:
        >>> nats_text(0.0421), nats_text(3e-6)
        ('0.0421', '3e-06')
    """
    return f"{value:.4f}" if value >= 1e-3 or value == 0 else f"{value:.0e}"


def range_text(low: float, high: float) -> str:
    """Return a range with two digits that count at each end.

    Example:
        >>> range_text(-0.123, 6)
        '−0.12..6'
    """
    return f"{low:.2g}..{high:.2g}".replace("-", "−")


def ratio_text(value: float, other: float) -> str:
    """Return how many times `other` a value is.

    Example:
        >>> ratio_text(12.345, 4.5), ratio_text(1, 0)
        ('2.7×', '∞×')
    """
    return f"{number_text(value / other if other else math.inf, 1)}×"


def thread_text(count: float | None) -> str:
    """Return a number of threads; nothing where it is not known.

    Example:
        >>> thread_text(1), thread_text(2)
        ('1 thread', '2 threads')
    """
    return "" if count is None else "1 thread" if count == 1 else f"{count:.0f} threads"
