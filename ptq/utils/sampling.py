"""Which of many are looked at."""

__all__ = ["spread"]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread: of images that several teachers made, from each.

    Example:
        >>> spread(10, 4)
        [0, 2, 5, 7]
    """
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]
