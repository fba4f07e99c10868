"""Which of many are looked at."""

__all__ = ["spread"]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices below `count`, evenly spread: of images of several teachers, some of each.

    Example:
        >>> spread(10, 4)
        [0, 2, 5, 7]
    """
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]
