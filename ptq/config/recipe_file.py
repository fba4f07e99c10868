"""Recipes: the settings of a run as a TOML file that people read, edit and give to `ptq quantize --config`.

A table for every part, a key for every field: ``[reconstruction]`` has ``iterations = 2000``, which is
``reconstruction.iterations`` for ``--set``. In ``[quantization.layers]`` stand the bits of single layers by name
pattern, or "float".
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ptq.config.nested import FLOAT, build, checked, flatten
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.utils.files import atomic

__all__ = ["assignment", "read_recipe", "recipe_text", "recipe_values", "toml_text", "write_recipe"]

HEAD = (
    "A recipe of ptq: `ptq {command} --config FILE` repeats the run.",
    "Options on the command line come first; paths are those of the folder the command is given in.",
)


def recipe_text(settings: Settings, name: str | None = None) -> str:
    """Return settings as a recipe, those without a value as comments.

    Args:
        settings: of a run.
        name: of the command that they are of; that of the settings when None.

    Example:
        >>> from ptq.config.flat_options import make_settings
        >>> print(recipe_text(make_settings("resnet18", 4)))
        # A recipe of ptq: ...
        [model]
        name = "resnet18"
        # weights is not set
        ...
    """
    import tomlkit  # only what writes waits for it

    def table(part: Any) -> tomlkit.items.Table:
        made = tomlkit.table()
        for field in fields(part):  # tables come after keys, as TOML wants it
            value = getattr(part, field.name)
            if value is None:
                made.add(tomlkit.comment(f"{field.name} is not set"))
            elif is_dataclass(value):
                made.add(field.name, table(value))
            else:
                made.add(field.name, _plain(value))
        return made

    document = tomlkit.document()
    for line in HEAD:
        document.add(tomlkit.comment(line.format(command=name or _command_of(settings))))
    for part in fields(settings):
        document.add(tomlkit.nl())
        document.add(part.name, table(getattr(settings, part.name)))
    return document.as_string().rstrip() + "\n"


def _command_of(settings: Settings) -> str:
    """Return the name of the command whose settings these are: "distill" where there is a student, else "quantize"."""
    return "quantize" if settings.distillation.student is None else "distill"


def toml_text(value: Any) -> str:
    """Return a value as TOML.

    Example:
        >>> toml_text((0.5, 0.9)), toml_text(True), toml_text({"Label": 0.1})
        ('[0.5, 0.9]', 'true', '{Label = 0.1}')
    """
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update(_plain(value))
        return table.as_string()
    return str(tomlkit.item(_plain(value)).as_string())


def write_recipe(settings: Settings, folder: Path, name: str | None = None) -> None:
    """Write recipe.toml into a run directory, atomically, with what `recipe_text` gives."""
    with atomic(folder / "recipe.toml") as path:
        path.write_text(recipe_text(settings, name), encoding="utf-8")


def read_recipe(path: Path | str) -> Settings:
    """Return the settings that a recipe says; what it leaves out has its default.

    Raises:
        InputError: as `recipe_values` does, and when it names no model.

    Example:
        >>> settings = read_recipe("runs/mine/recipe.toml")  # doctest: +SKIP
    """
    values = recipe_values(path)
    if "model.name" not in values:
        raise InputError(f"{path} names no model: give it a table [model] with a name.")
    return build(Settings, values)


def recipe_values(path: Path | str) -> dict[str, Any]:
    """Return what a recipe says, as checked values by dotted name; whatever it leaves out is missing.

    Raises:
        InputError: when it cannot be read, has an unknown key, or a value that cannot be.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config: cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--config: {path} is not TOML ({error})") from error
    return checked(Settings, flatten(Settings, content), lambda name: f"--config: {path}: {name}")


def assignment(text: str) -> dict[str, Any]:
    """Return "NAME=VALUE", as `--set` takes it, as a checked value by dotted name.

    The value is TOML; text may stand without quotes.

    Raises:
        InputError: for a name that there is not, or a value that it cannot have.

    Example:
        >>> assignment("reconstruction.iterations=2000")
        {'reconstruction.iterations': 2000}
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set: {text!r}; give NAME=VALUE, as reconstruction.iterations=2000")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        found = value
    return checked(Settings, flatten(Settings, {name.strip(): found}), lambda setting: f"--set: {setting}")


def _plain(value: Any) -> Any:
    """A value as TOML can have it: lists for tuples, and "float" for a layer without bits."""
    if isinstance(value, Mapping):
        return {key: FLOAT if inner is None else inner for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
