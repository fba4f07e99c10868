"""Nested frozen dataclasses as values by dotted name, and back: `Settings` for files and command lines.

A value is checked against its field's type: whether it is of the kind, in the range of its ``msgspec.Meta``, and one
of the choices of a ``Literal``.
"""

import difflib
import math
import os
import types
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from ptq.config.choices import suggestion
from ptq.errors import InputError

__all__ = ["FLOAT", "build", "checked", "flatten", "leaf_types", "leaf_values"]

T = TypeVar("T")
FLOAT = "float"  # in place of bits: the layer is left in float


@cache
def leaf_types(cls: type) -> dict[str, Any]:
    """Return the type of every field that holds a value, by its dotted name.

    Example:
        >>> from ptq.config.settings import Settings
        >>> leaf_types(Settings)["output.folder"]
        <class 'str'>
    """
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if is_dataclass(hint):
            found |= {f"{name}.{inner}": kind for inner, kind in leaf_types(cast(type, hint)).items()}
        else:
            found[name] = hint
    return found


def leaf_values(instance: Any) -> dict[str, Any]:
    """Return every value of a nested dataclass by its dotted name.

    Example:
        >>> from ptq.config.settings import EvaluationSettings
        >>> leaf_values(EvaluationSettings(data="val"))
        {'data': 'val', 'metric': None}
    """
    found: dict[str, Any] = {}
    for field in fields(instance):
        value = getattr(instance, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{inner}": leaf for inner, leaf in leaf_values(value).items()}
        else:
            found[field.name] = value
    return found


def flatten(cls: type, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables, as TOML and JSON have them, as values by dotted name.

    Example:
        >>> from ptq.config.settings import Settings
        >>> flatten(Settings, {"quantization": {"bits": 4, "layers": {"fc": 8}}})
        {'quantization.bits': 4, 'quantization.layers': {'fc': 8}}
    """
    sections = {name.rpartition(".")[0] for name in leaf_types(cls)}

    def inner(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in table.items():
            inside = isinstance(value, Mapping) and prefix + key in sections
            found |= inner(value, f"{prefix}{key}.") if inside else {prefix + key: value}
        return found

    return inner(tables, "")


def checked(cls: type, values: Mapping[str, Any], named: Callable[[str], str] = str) -> dict[str, Any]:
    """Return values by dotted name as their fields hold them: lists as tuples, paths as text.

    One number stands for all numbers of a tuple, and "float" for None in the bits of layers.

    Args:
        cls: the nested dataclass.
        values: some or all of its values.
        named: what messages call a field, from its dotted name.

    Raises:
        InputError: for a name that no field has, or a value that its field cannot have.

    Example:
        >>> from ptq.config.settings import Settings
        >>> checked(Settings, {"model.size": 224, "quantization.bits": 4})
        {'model.size': (224, 224), 'quantization.bits': 4}
    """
    known, found = leaf_types(cls), {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{named(name)}: there is no such setting{_nearest(name, list(known))}")
        kind = _kind(known[name])
        try:
            found[name] = msgspec.convert(_long_form(value, kind), known[name])
        except msgspec.ValidationError as error:
            raise InputError(f"{named(name)} cannot be {value!r}{_reason(kind, value, error)}") from error
        if not all(map(math.isfinite, _floats(found[name]))):
            raise InputError(f"{named(name)} cannot be {value!r}: numbers must be finite")
    return found


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return the nested dataclass that has these checked values, and its defaults elsewhere."""
    arguments: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        inside = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        if inside:
            arguments[name] = build(cast(type, hint), inside)
        elif name in values:
            arguments[name] = values[name]
    return cls(**arguments)


def _nearest(name: str, known: list[str]) -> str:
    """The nearest name, or the nearest last word; else the section's names, or the sections."""
    section, _, last = name.rpartition(".")
    if near := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]}?"
    words = {other: other.rpartition(".")[2] for other in known}
    if near := difflib.get_close_matches(last, words.values(), n=1):
        return f"; did you mean {' or '.join(other for other, word in words.items() if word == near[0])}?"
    inside = [other for other in known if other.startswith(f"{section}.")]
    return f"; choose one of {', '.join(inside or sorted({other.partition('.')[0] + '.*' for other in known}))}"


def _kind(hint: Any) -> Any:
    """A type without ``| None`` and without its range."""
    if get_origin(hint) in (types.UnionType, Union):
        hint = get_args(hint)[0]
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _long_form(value: Any, kind: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple and type(value) in (int, float):
        return (value,) if parts[-1] is Ellipsis else (value,) * len(parts)
    if origin is abc.Mapping and isinstance(value, Mapping):
        return {key: None if inner == FLOAT else inner for key, inner in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _reason(kind: Any, value: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal and isinstance(value, str):
        return suggestion(value, get_args(kind))
    words = str(error).partition(" - at")[0].replace("`", "").replace("array", "list").replace("null", "none")
    return f": {words[0].lower()}{words[1:]}"


def _floats(value: Any) -> list[float]:
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    return [one for one in inside if isinstance(one, float)]
