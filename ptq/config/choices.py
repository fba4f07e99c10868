"""What can be chosen, each choice defined once."""

from ptq.errors import InputError

__all__ = ["MAX_BITS", "MIN_BITS", "check_bits"]

MIN_BITS = 2
MAX_BITS = 8  # every code lives in an 8-bit container, because that is what integer kernels read


def check_bits(bits: int, what: str) -> int:
    """Return `bits` when it is within 2..8.

    Raises:
        InputError: when it is not.
    """
    if not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{what} must be between {MIN_BITS} and {MAX_BITS} bits, not {bits}.")
    return bits
