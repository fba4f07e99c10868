"""The names of a network's classes, where somebody has written them down."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["class_names", "label_names", "timm_classes"]


def class_names(names: object, count: int) -> tuple[str, ...]:
    """Return names as they are where there is one for each of `count` classes, else none.

    Example:
        >>> class_names(["cat", "dog"], 2), class_names(["cat", "dog"], 10)
        (('cat', 'dog'), ())
    """
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != count:
        return ()
    return tuple(str(name) for name in names)


def timm_classes(config: Any) -> tuple[str, ...]:
    """Return the names that timm knows for the classes of a pretrained configuration."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config)
    return () if subset is None else tuple(ImageNetInfo(subset).label_descriptions())


def label_names(labels: Sequence[int], classes: Sequence[str], sha256: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the labels that images have, by class index; the first of several names.

    Args:
        labels: of the images, -1 where unknown.
        classes: of the network with the digest `sha256`.
        facts: about the images; their labels are classes of their first teacher, and are named where that is
            this network.

    Example:
        >>> label_names([1, 1, -1], ("tench", "goldfish, Carassius"), "ab", {"teachers": [{"sha256": "ab"}]})
        {'1': 'goldfish'}
    """
    teachers = facts.get("teachers") or [{}]
    if teachers[0].get("sha256") != sha256:
        return {}
    known = sorted({label for label in labels if 0 <= label < len(classes)})
    return {str(label): classes[label].split(",")[0] for label in known}
