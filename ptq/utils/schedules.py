"""How a rate or a weight falls as work is done."""

import math

__all__ = ["cosine"]


def cosine(done: float) -> float:
    """Return what falls from 1 to 0 along half a cosine (Loshchilov and Hutter, ICLR 2017).

    Args:
        done: share of the work, 0..; it stays 0 after 1.

    Example:
        >>> cosine(0), round(cosine(0.5), 3), cosine(1), cosine(2)
        (1.0, 0.5, 0.0, 0.0)
    """
    return (1 + math.cos(math.pi * min(1.0, done))) / 2
