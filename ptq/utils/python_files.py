"""Python files of a user's, run as modules."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from ptq.errors import InputError

__all__ = ["import_file"]


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own name, with its folder importable meanwhile.

    Raises:
        InputError: for a file that is not Python, or that raises.
    """
    name = f"ptq_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    sys.path.insert(0, os.fspath(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # someone else's code may raise anything
        raise InputError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.fspath(path.resolve().parent))
    return module
