"""What the shell offers for a model that is being typed: nothing here imports torch or torchvision."""

import glob

from ptq.models.names import BUNDLED, torchvision_names

__all__ = ["complete_model", "complete_models"]


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models that go on from `incomplete`, and Python files that may hold one.

    Example:
        >>> complete_model("resnet1")
        ['resnet101', 'resnet152', 'resnet18']
    """
    names = (*torchvision_names(), *BUNDLED)
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
