"""Options are names of settings: the same from Python, from the shell, and in the command that repeats a run."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import ptq
from ptq.cli.parsing import settings_from
from ptq.config.flat_options import OPTIONS, command, make_settings, named_values, setting_values
from ptq.config.nested import leaf_types
from ptq.config.settings import Settings
from tests.helpers.settings import any_settings


def test_every_option_is_a_setting() -> None:
    assert set(OPTIONS.values()) <= leaf_types(Settings).keys()
    assert len(set(OPTIONS.values())) == len(OPTIONS)


def test_python_has_the_names_of_the_command_line() -> None:
    made = make_settings("net", 4, act_bits=4, layers={"fc": None}, out=Path("a"), size=8)
    assert (made.quantization.act_bits, made.output.folder, made.model.size) == (4, "a", (8, 8))
    assert named_values(made)["layers"] == {"fc": None}
    made = make_settings("net", preset="best", settings={"execution.preset": "fast", "reconstruction.batch": 3})
    assert (made.quantization.bits, made.execution.preset, made.reconstruction.batch) == (8, "best", 3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": 9}, "bits"),
        ({"act_bits": 1}, "act_bits"),
        ({"prset": "fast"}, "preset"),
        ({"preset": "quick"}, "preset"),
        ({"settings": {"reconstruction.itertions": 5}}, "reconstruction.iterations"),
        ({"settings": {"reconstruction.iterations": "many"}}, "reconstruction.iterations"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ptq.InputError, match=named):
        make_settings("net", **options)


def test_the_shell_has_other_names_in_messages() -> None:
    with pytest.raises(ptq.InputError, match="--act-bits"):
        setting_values({"act_bits": 1}, flags=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"act_bits": 4, "teachers": ["a", "b"]}, "--act-bits 4 --teachers a,b --out runs/ptq"),
        ({"size": (64, 96), "out": "runs/x"}, "--size 64x96 --out runs/x"),
        ({"reduce_range": True, "layers": {"a b": None}}, "--reduce-range --layer 'a b=float' --out runs/ptq"),
        ({"settings": {"reconstruction.joint": False}}, "--set reconstruction.joint=false --out runs/ptq"),
    ],
)
def test_the_command_repeats_the_run(options: dict[str, Any], words: str) -> None:
    said = shlex.split(command(make_settings("net", 4, **options)))
    assert sorted(said) == sorted(["ptq", "quantize", "--model", "net", "--bits", "4", *shlex.split(words)])


@given(any_settings())
def test_the_assignments_of_a_command_are_its_settings(settings: Settings) -> None:
    words = shlex.split(command(settings))
    sets = [value for word, value in pairwise(words) if word == "--set"]
    ours = {n for n in leaf_types(Settings) if n not in OPTIONS.values() and not n.startswith("distillation.")}
    made = named_values(settings_from({"model": "vgg11", "bits": 4}, assignments=sets))
    assert {name: made[name] for name in ours} == {name: named_values(settings)[name] for name in ours}
