"""What the text of one option says: a size, numbers for channels, bits by name pattern. Nothing here imports torch."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ptq.config.choices import MAX_BITS, MIN_BITS
from ptq.config.flat_options import OPTIONS, flag
from ptq.config.nested import FLOAT
from ptq.config.ranges import DEVICES
from ptq.errors import InputError

__all__ = ["activation_bits", "bits_by_pattern", "device_name", "input_size", "per_channel", "read_option"]


def read_option(name: str, value: Any) -> Any:
    """Return what the text of an option says; None stays None.

    Raises:
        InputError: when it says nothing.

    Example:
        >>> read_option("std", "0.5")
        (0.5,)
    """
    try:
        return _READERS[name](value) if name in _READERS and value is not None else value
    except InputError as error:
        raise InputError(f"{flag(OPTIONS[name])}: {error}") from error


def input_size(text: str) -> tuple[int, int]:
    """Return (height, width) from "224" or "224x320".

    Example:
        >>> input_size("224x320")
        (224, 320)
    """
    if not re.fullmatch(r"[1-9]\d{0,4}([x,][1-9]\d{0,4})?", text):
        raise InputError(f"{text!r} is no size; give 224, or height and width as 224x320")
    numbers = [int(part) for part in re.split("[x,]", text)]
    return numbers[0], numbers[-1]


def per_channel(text: str) -> tuple[float, ...]:
    """Return numbers from "0.485,0.456,0.406", one for each channel or one for all.

    Example:
        >>> per_channel("0.5")
        (0.5,)
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise InputError(f"{text!r}; give a number for each channel, as 0.485,0.456,0.406, or one for all")
    return tuple(values)


def device_name(text: str) -> str:
    """Return cpu, cuda, cuda:N, mps, or xpu; whether the machine has it is found out later."""
    if not re.fullmatch(DEVICES, text):
        raise InputError(f"{text!r}; give cpu, cuda or cuda:N")
    return text


def activation_bits(text: str) -> int | str:
    """Return bits, or "auto"; whether there can be so many is checked elsewhere.

    Example:
        >>> activation_bits("4"), activation_bits("auto")
        (4, 'auto')
    """
    if text != "auto" and not text.isdecimal():
        raise InputError(f"{text!r}; give {MIN_BITS} to {MAX_BITS}, or auto")
    return text if text == "auto" else int(text)


def bits_by_pattern(texts: Iterable[str], in_float: bool = True) -> dict[str, int | None]:
    """Return bits by name pattern, None for float, from "PATTERN=BITS" or "PATTERN=float".

    Args:
        texts: in the order that counts.
        in_float: whether something can be left in float.

    Raises:
        InputError: for anything else.

    Example:
        >>> bits_by_pattern(["layer4.*=8", "fc=float"])
        {'layer4.*': 8, 'fc': None}
    """
    found: dict[str, int | None] = {}
    for text in texts:
        pattern, _, bits = text.rpartition("=")
        known = [*map(str, range(MIN_BITS, MAX_BITS + 1)), *([FLOAT] if in_float else [])]
        if not pattern or bits not in known:
            raise InputError(f"{text!r}; give a name or pattern and {', '.join(known)} bits, as 'layer4.*=8'")
        found[pattern] = None if bits == FLOAT else int(bits)
    return found


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "act_bits": activation_bits,
    "teachers": lambda text: text.split(",") if text else (),
    "size": input_size,
    "mean": per_channel,
    "std": per_channel,
    "device": device_name,
    "layers": bits_by_pattern,
    "tensors": lambda texts: bits_by_pattern(texts, in_float=False),
}
"""What reads an option's text."""
