"""What the shell offers for a model that is being typed: nothing here imports torch or torchvision."""

import glob
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__all__ = ["complete_model", "complete_models", "torchvision_names"]

_BUNDLED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:[@ )].*\n)*def (\w+)\(", re.MULTILINE)


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the classifiers of the torchvision at hand, read from its files: importing it takes seconds.

    Example:
        >>> "resnet50" in torchvision_names()
        True
    """
    spec = importlib.util.find_spec("torchvision")  # found, and not run
    if spec is None or spec.origin is None:
        return ()
    files = (Path(spec.origin).parent / "models").glob("*.py")
    names = (_REGISTERED.findall(file.read_text(encoding="utf-8")) for file in files)
    return tuple(sorted(name for found in names for name in found))


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models that go on from `incomplete`, and Python files that may hold one.

    Example:
        >>> complete_model("resnet1")
        ['resnet101', 'resnet152', 'resnet18']
    """
    names: Iterable[str] = (*torchvision_names(), *_BUNDLED)
    files = sorted(glob.glob(f"{glob.escape(incomplete)}*.py"))
    return [*(name for name in names if name.startswith(incomplete)), *files]


def complete_models(incomplete: str) -> list[str]:
    """Return what goes on from a list whose last name is being typed.

    Example:
        >>> complete_models("resnet50,resnet1")
        ['resnet50,resnet101', 'resnet50,resnet152', 'resnet50,resnet18']
    """
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in complete_model(last)]
