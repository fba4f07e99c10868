"""Recipes: what is written reads back, and says the same as the command line."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner, Result

from ptq.cli.commands import app
from ptq.cli.parsing import settings_from
from ptq.config.recipe_file import read_recipe, write_recipe
from ptq.config.settings import PRESETS, Settings
from ptq.errors import PtqError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TRIPLE = st.tuples(*[st.floats(0, 1)] * 3)
OTHERWISE: dict[str, tuple[list[str], Any]] = {  # options and values that are nobody's default
    "model": (["--model", "resnet34"], "resnet34"),
    "bits": (["--bits", "3"], 3),
    "act_bits": (["--act-bits", "5"], 5),
    "preset": (["--preset", "best"], "best"),
    "method": (["--method", "brecq"], "brecq"),
    "teachers": (["--teachers", "resnet18,resnet34"], ("resnet18", "resnet34")),
    "verifier": (["--verifier", "resnet50"], "resnet50"),
    "images": (["--images", "genie"], "genie"),
    "mixed_copies": (["--mixed-copies", "2"], 2),
    "data": (["--data", "here"], "here"),
    "weights": (["--weights", "here"], "here"),
    "out": (["--out", "there"], "there"),
    "seed": (["--seed", "7"], 7),
    "device": (["--device", "cuda:1"], "cuda:1"),
    "threads": (["--threads", "3"], 3),
    "memory_limit": (["--memory-limit", "1GiB"], "1GiB"),
    "size": (["--size", "64x96"], (64, 96)),
    "resize": (["--resize", "128"], 128),
    "mean": (["--mean", "0.1,0.2,0.3"], (0.1, 0.2, 0.3)),
    "std": (["--std", "0.5"], (0.5, 0.5, 0.5)),
    "format": (["--format", "int8"], "int8"),
    "reduce_range": (["--reduce-range"], True),
    "overrides": (["--layer", "fc=float", "--layer", "layer1.*=8"], {"fc": None, "layer1.*": 8}),
}


def dump(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["quantize", "--dump-config", *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(result: Result, folder: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (folder / "recipe.toml").write_text(result.stdout)
    return read_recipe(folder / "recipe.toml")


@given(
    st.builds(
        Settings,
        model=TEXT,
        bits=st.integers(2, 8),
        act_bits=st.integers(2, 8),
        preset=st.sampled_from(PRESETS),
        teachers=st.lists(TEXT).map(tuple),
        weights=st.none() | TEXT,
        out=TEXT,
        seed=st.integers(0, 2**31),
        size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        mean=st.none() | TRIPLE,
        reduce_range=st.booleans(),
        overrides=st.dictionaries(TEXT, st.none() | st.integers(2, 8)),
    )
)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_recipe(settings, folder)
    assert Settings(**read_recipe(folder / "recipe.toml")) == settings


def test_every_setting_has_an_option_that_reaches_it(here: Path) -> None:
    assert {field.name for field in fields(Settings)} == set(OTHERWISE)
    for name, (words, value) in OTHERWISE.items():
        given_ = words if name in ("model", "bits") else ["--model", "resnet18", "--bits", "4", *words]
        rest = {"model": ["--bits", "4"], "bits": ["--model", "resnet18"]}.get(name, [])
        assert said(dump(*given_, *rest), here)[name] == value


def test_a_recipe_says_what_the_command_line_does_not(here: Path) -> None:
    words = [word for words, _ in OTHERWISE.values() for word in words]
    everything = said(dump(*words), here)
    assert everything == {name: value for name, (_, value) in OTHERWISE.items()}
    assert said(dump("--config", "recipe.toml"), here) == everything
    other = said(dump("--config", "recipe.toml", "--bits", "6", "--layer", "conv1=4"), here)
    assert other == everything | {"bits": 6, "overrides": {"conv1": 4}}


def test_the_command_of_a_run_is_its_recipe(here: Path) -> None:
    words = [word for words, _ in OTHERWISE.values() for word in words]
    settings = Settings(**said(dump(*words), here))
    assert Settings(**said(dump(*shlex.split(settings.command())[2:]), here)) == settings


def test_short_forms(here: Path) -> None:
    (here / "r.toml").write_text("model = 'a'\nbits = 4\nsize = 64\nmean = 0.5\nstd = [1, 1, 1]\n")
    found = read_recipe("r.toml")
    assert (found["size"], found["mean"], found["std"]) == ((64, 64), (0.5,) * 3, (1, 1, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bits = ", "is not TOML"),
        ("\xff", "is not TOML"),
        ("[" * 5000, "is not TOML"),
        ("bit = 4", "'bit', which is no option; did you mean bits?"),
        ("overrides = {a = 4}", "which is no option"),
        ("bits = 'four'", 'bits cannot be "four"'),
        ("bits = 4.5", "bits cannot be 4.5"),
        ("bits = true", "bits cannot be true"),
        ("reduce-range = 1", "reduce-range cannot be 1"),
        ("teachers = 'resnet18'", 'teachers cannot be "resnet18"'),
        ("mean = [0.5, 0.5]", "mean cannot be [0.5, 0.5]"),
        ("layers = 4", "layers cannot be 4"),
        ("[layers]\nfc = 'integer'", 'layers cannot be {"fc" = "integer"}'),
        ("[layers]\nfc = 9", "--layer: 'fc=9'"),
        ("[layers]\nfc = 1", "--layer: 'fc=1'"),
    ],
)
def test_recipes_that_cannot_be(here: Path, content: str, message: str) -> None:
    (here / "r.toml").write_bytes(content.encode("latin-1"))
    result = dump("--model", "resnet18", "--bits", "4", "--config", "r.toml")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_recipe_that_is_not_there(here: Path) -> None:
    result = dump("--config", "no.toml")
    assert (result.exit_code, "cannot read no.toml" in result.stderr) == (2, True)


def test_what_no_setting_is_called_is_left_out() -> None:
    assert settings_from({"model": "vgg11", "bits": 4, "restart": True}, "").model == "vgg11"


def test_bits_of_a_layer_are_checked() -> None:
    with pytest.raises(PtqError, match=r"fc .* between 2 and 8 bits, not 9"):
        Settings("resnet18", bits=4, overrides={"fc": 9})
