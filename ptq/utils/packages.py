"""Installed packages whose files are wanted, and not their code."""

import importlib.util
from pathlib import Path

__all__ = ["files_of_package"]


def files_of_package(package: str, pattern: str) -> list[Path]:
    """Return the files of a package that match a pattern, sorted; none where it is not installed.

    The package is found, and not run.

    Example:
        >>> [path.name for path in files_of_package("ptq", "py.typed")]
        ['py.typed']
    """
    spec = importlib.util.find_spec(package)
    return sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
