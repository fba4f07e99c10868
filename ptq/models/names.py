"""The names of models at hand, read from files: importing torchvision or timm takes seconds, refusing a name should not."""

import difflib
import re
from collections.abc import Sequence
from functools import cache

from ptq.errors import InputError
from ptq.utils.packages import files_of_package

__all__ = ["BUNDLED", "check_name", "provider_of", "timm_names", "torchvision_names"]

BUNDLED = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""Names and input sizes of the bundled networks."""

_REGISTERED = re.compile(r"^@register_model(?:\(\))?\n(?:[@ )].*\n)*def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(.*?^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"'(\w+)[\w.]*'\s*:")


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the classifiers of the torchvision at hand.

    Example:
        >>> "resnet50" in torchvision_names()
        True
    """
    return tuple(sorted(n for text in _sources("torchvision") for n in _REGISTERED.findall(text)))


@cache
def timm_names() -> tuple[str, ...]:
    """Return timm's architectures, those under names of old too; none without timm."""
    found: set[str] = set()
    for text in _sources("timm"):
        found.update(_REGISTERED.findall(text))
        for renamed in _RENAMED.findall(text):
            found.update(_OLD_NAME.findall(renamed))
    return tuple(sorted(found))


def provider_of(name: str) -> str:
    """Return which provider knows a name, by its form alone: a key of `FILES` or `PUBLISHED` in `ptq.models.registry`.

    Example:
        >>> provider_of("net.py:tiny"), provider_of("net.onnx"), provider_of("timm:resnet50"), provider_of("resnet50")
        ('python_file', 'onnx_file', 'timm', 'torchvision')
    """
    if name.endswith(".py") or ".py:" in name:
        return "python_file"
    if name.lower().endswith(".onnx"):
        return "onnx_file"
    if name.startswith("timm:"):
        return "timm"
    return "bundled" if name.lower() in BUNDLED else "torchvision"


def check_name(name: str) -> None:
    """Refuse a name that no provider has; files are not looked at.

    Raises:
        InputError: with the nearest names.

    Example:
        >>> check_name("resnet5O")
        Traceback (most recent call last):
        ptq.errors.InputError: no model 'resnet5O'; did you mean resnet50 or resnet152 or resnet34? ...
    """
    provider = provider_of(name)
    if provider == "timm":
        short, known = name.removeprefix("timm:"), timm_names()
        if known and short.split(".")[0] not in known:
            raise InputError(f"timm has no model {short!r}{_nearest(short, known, 'timm:')}")
    if provider == "torchvision" and (known := torchvision_names()) and name.lower() not in known:
        lower = name.lower()
        near = _nearest(lower, (*known, *BUNDLED), "", [lower] if lower in timm_names() else [])
        raise InputError(
            f"no model {name!r}{near or '.'} A model is a torchvision name, timm:NAME, efficientnet_lite0|1|2, "
            "FILE.py:factory or FILE.onnx."
        )


def _nearest(name: str, known: Sequence[str], prefix: str, timm: Sequence[str] = ()) -> str:
    near = [prefix + other for other in difflib.get_close_matches(name, known, n=3)]
    near += [f"timm:{other}" for other in timm]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _sources(package: str) -> list[str]:
    """The text of a package's files of models; none where it is not installed."""
    return [file.read_text(encoding="utf-8") for file in files_of_package(package, "models/*.py")]
