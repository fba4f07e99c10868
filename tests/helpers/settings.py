"""Random settings, from the types of their fields."""

import types
from collections import abc
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from ptq.config.nested import build, leaf_types
from ptq.config.settings import Settings

__all__ = ["any_settings", "any_value"]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
BUDGETS = ("pruning.macs", "pruning.parameters", "pruning.latency")
OF_A_FORM = {
    "distillation.student": st.sampled_from([None, "resnet18"]),
    "distillation.student_weights": st.sampled_from([None, "."]),
    "execution.device": st.sampled_from([None, "cpu", "cuda:1"]),
    "pruning.macs": st.sampled_from([None, "1.5x", "2x"]),
    "pruning.parameters": st.sampled_from([None, "60%", "0.5 %"]),
    "pruning.latency": st.sampled_from([None, "3ms", "0.25 ms"]),
    "execution.memory_limit": st.sampled_from([None, "0", "1.5 GiB"]),
    "quantization.max_size": st.sampled_from([None, "3MB", "800 kB"]),
}


def any_settings() -> st.SearchStrategy[Settings]:
    """Settings of which every field has any value that it can have."""
    values = st.fixed_dictionaries({name: any_value(name) for name in leaf_types(Settings)})
    return values.map(lambda found: build(Settings, _with_one_budget(found)))


def _with_one_budget(values: dict[str, Any]) -> dict[str, Any]:
    budgets = [name for name in BUDGETS if values[name] is not None]
    return values | dict.fromkeys(budgets[1:])


def any_value(name: str) -> st.SearchStrategy[Any]:
    """Any value that a field can have."""
    return OF_A_FORM[name] if name in OF_A_FORM else _of(leaf_types(Settings)[name])


def _of(hint: Any) -> st.SearchStrategy[Any]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return st.one_of([_of(part) for part in parts])
    if origin is Annotated:
        meta = parts[1]
        low = meta.ge if meta.gt is None else meta.gt
        high = meta.le if meta.lt is None else meta.lt
        if parts[0] is int:
            return st.integers(low, 2**40 if high is None else high)
        return st.floats(
            low, high, exclude_min=meta.gt is not None, exclude_max=meta.lt is not None, allow_infinity=False
        )
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(_of(parts[0])).map(tuple) if parts[-1] is ... else st.tuples(*map(_of, parts))
    if origin is abc.Mapping:
        return st.dictionaries(TEXT, _of(parts[1]))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    plain: dict[Any, st.SearchStrategy[Any]] = {str: TEXT, bool: st.booleans(), float: finite, type(None): st.none()}
    return plain[hint]
