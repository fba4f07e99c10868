"""Recipes: the settings of a run as a TOML file that people read, edit and give to `ptq quantize --config`.

A key is an option's name; the table [layers] has the bits of single layers by name pattern, or "float".
"""

import difflib
import json
import tomllib
import types
from collections import abc
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ptq.config.settings import FLOAT, Settings, layer_texts, option_text
from ptq.errors import InputError
from ptq.utils.files import atomic

__all__ = ["option_values", "read_recipe", "recipe_text", "write_recipe"]

HEAD = (
    "# A recipe of ptq: `ptq quantize --config FILE` repeats the run.",
    "# Options on the command line come first; paths are those of the folder the command is given in.",
)
LAYERS = "layers"


def recipe_text(settings: Settings) -> str:
    """Return settings as a recipe, those without a value as comments.

    Example:
        >>> print(recipe_text(Settings("resnet18", bits=4)).splitlines()[3])
        model = "resnet18"
    """
    lines = [*HEAD, ""]
    for field in fields(Settings):
        if field.name == "overrides":
            continue
        value = getattr(settings, field.name)
        key = field.name.replace("_", "-")
        lines.append(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}")
    if settings.overrides:
        lines += ["", f"[{LAYERS}]"]
        for pattern, bits in settings.overrides.items():
            lines.append(f"{_toml(pattern)} = {_toml(FLOAT if bits is None else bits)}")
    return "\n".join(lines) + "\n"


def write_recipe(settings: Settings, folder: Path) -> None:
    """Write recipe.toml into a run directory, atomically."""
    with atomic(folder / "recipe.toml") as path:
        path.write_text(recipe_text(settings), encoding="utf-8")


def read_recipe(path: Path | str) -> dict[str, Any]:
    """Return what a recipe says, as fields of `Settings`; whatever it leaves out is missing.

    Raises:
        InputError: when it cannot be read, has an unknown key, or a value of the wrong kind.

    Example:
        >>> settings = Settings(**read_recipe("runs/mine/recipe.toml"))
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config: cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--config: {path} is not TOML ({error})") from error
    hints = get_type_hints(Settings)
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = "overrides" if key == LAYERS else key.replace("-", "_")
        if name not in hints or key == "overrides":
            raise InputError(f"--config: {path} says {key!r}, which is no option{_hint(key)}")
        found[name] = _value(name, value)
        if not _fits(found[name], hints[name]):
            raise InputError(f"--config: {path}: {key} cannot be {_toml(value)}")
    return found


def option_values(path: Path) -> dict[str, Any]:
    """Return what a recipe says as the command line would: option -> number, flag, text or list of texts.

    Raises:
        InputError: as `read_recipe` does.
    """
    found = read_recipe(path)
    layers = found.pop("overrides", {})
    values = {name: option_text(name, value) for name, value in found.items()}
    return values | ({"layer": layer_texts(layers)} if layers else {})


def _value(name: str, value: Any) -> Any:
    """TOML has no tuples, and nothing for None: [layers] says "float", a size may be one number."""
    if isinstance(value, list):
        return tuple(value)
    if name == "size" and type(value) is int:
        return (value, value)
    if name in ("mean", "std") and type(value) in (int, float):
        return (value,) * 3
    if name == "overrides" and isinstance(value, dict):
        return {pattern: None if bits == FLOAT else bits for pattern, bits in value.items()}
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a type hint says; whole numbers are no flags, nor flags numbers."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if origin is abc.Mapping:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    return type(value) is hint or (hint is float and type(value) is int)


def _toml(value: Any) -> str:
    if isinstance(value, str):  # JSON's strings are TOML's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml(k)} = {_toml(v)}' for k, v in value.items())}}}"
    return str(value)


def _hint(key: str) -> str:
    names = [LAYERS, *(f.name.replace("_", "-") for f in fields(Settings) if f.name != "overrides")]
    near = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; options are {', '.join(names)}"
