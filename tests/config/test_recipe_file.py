"""Recipes: what is written reads back, and says the same as the command line."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner, Result

import ptq
from ptq.cli.commands import app
from ptq.cli.parsing import settings_from
from ptq.config.flat_options import OPTIONS, command, named_values
from ptq.config.nested import leaf_types
from ptq.config.recipe_file import assignment, read_recipe, recipe_values, toml_text, write_recipe
from ptq.config.settings import Settings
from tests.helpers.settings import any_settings, any_value

OTHERWISE: dict[str, tuple[list[str], Any]] = {  # options and values that are nobody's default
    "model": (["--model", "resnet34"], "resnet34"),
    "bits": (["--bits", "3"], 3),
    "act_bits": (["--act-bits", "5"], 5),
    "preset": (["--preset", "best"], "best"),
    "method": (["--method", "brecq"], "brecq"),
    "finetune": (["--finetune", "20"], 20),
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
    "std": (["--std", "0.5"], (0.5,)),
    "channels": (["--channels", "BGR"], "BGR"),
    "range": (["--range", "255"], 255),
    "metric": (["--metric", "here.py:metric"], "here.py:metric"),
    "task": (["--task", "fc=embed"], "fc=embed"),
    "format": (["--format", "int8"], "int8"),
    "reduce_range": (["--reduce-range"], True),
    "keep_branches": (["--keep-branches"], True),
    "place": (["--place", "integers"], "integers"),
    "prune": (["--prune", "1.5x"], "1.5x"),
    "keep": (["--keep", "60%"], "60%"),
    "prune_to": (["--prune-to", "3ms"], "3ms"),
    "tensors": (["--tensor", "layer1.*=7", "--tensor", "fc=6"], {"layer1.*": 7, "fc": 6}),
    "max_size": (["--max-size", "3MB"], "3MB"),
    "min_agreement": (["--min-agreement", "98"], 98.0),
    "max_drop": (["--max-drop", "1.5", "--data", "here"], 1.5),
    "layers": (["--layer", "fc=float", "--layer", "layer1.*=8"], {"fc": None, "layer1.*": 8}),
}
TOGETHER = OTHERWISE.keys() - {"min_agreement", "max_drop", "keep", "prune_to"}  # one budget of bits, one of channels
EVERYTHING = [word for name in OTHERWISE if name in TOGETHER for word in OTHERWISE[name][0]]


def dump(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["quantize", "--dump-config", *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").touch()
    (tmp_path / "here.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(result: Result, folder: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (folder / "recipe.toml").write_text(result.stdout)
    return named_values(read_recipe(folder / "recipe.toml"))


@given(any_settings())
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_recipe(settings, folder)
    assert read_recipe(folder / "recipe.toml") == settings


def test_a_recipe_has_every_field(here: Path) -> None:
    text = dump("--model", "resnet18", "--bits", "4").stdout
    missing = [name for name in leaf_types(Settings) if name.rpartition(".")[2] not in text]
    assert missing == []


def test_every_setting_has_an_option_that_reaches_it(here: Path) -> None:
    assert OTHERWISE.keys() == OPTIONS.keys()
    for name, (words, value) in OTHERWISE.items():
        given_ = words if name in ("model", "bits") else ["--model", "resnet18", "--bits", "4", *words]
        rest = {"model": ["--bits", "4"], "bits": ["--model", "resnet18"]}.get(name, [])
        assert said(dump(*given_, *rest), here)[name] == value


def test_options_come_before_assignments_and_those_before_the_recipe(here: Path) -> None:
    everything = said(dump(*EVERYTHING), here)
    assert {name: everything[name] for name in TOGETHER} == {name: OTHERWISE[name][1] for name in TOGETHER}
    assert said(dump("--config", "recipe.toml"), here) == everything
    other = said(dump("--config", "recipe.toml", "--bits", "6", "--layer", "conv1=4"), here)
    assert other == everything | {"bits": 6, "layers": {"conv1": 4}}
    (here / "r.toml").write_text("[model]\nname = 'vgg11'\n[quantization]\nbits = 3\nact_bits = 4\n")
    words = ("--config", "r.toml", "--set", "quantization.act_bits=5", "--set", "quantization.bits=5", "--bits", "6")
    found = said(dump(*words), here)
    assert (found["model"], found["bits"], found["act_bits"]) == ("vgg11", 6, 5)
    found = said(dump(*words, "--set", "quantization.act_bits=7"), here)
    assert found["act_bits"] == 7  # the last of its name
    # An option at its default counts where it is given.
    assert said(dump(*words, "--act-bits", "8"), here)["act_bits"] == 8


def test_the_command_of_a_run_is_its_recipe(here: Path) -> None:
    said(dump(*EVERYTHING, "--set", "calibration.synthesis.betas=[0.1, 0.2]"), here)
    settings = read_recipe("recipe.toml")
    said(dump(*shlex.split(command(settings))[2:]), here)
    assert read_recipe("recipe.toml") == settings


@pytest.mark.parametrize("name", leaf_types(Settings))
@given(st.data())
def test_every_field_can_be_assigned(name: str, data: st.DataObject) -> None:
    value = data.draw(any_value(name).filter(lambda one: one is not None))
    assert assignment(f"{name}={toml_text(value)}") == {name: value}


def test_text_may_stand_without_quotes_and_tables_inline() -> None:
    assert assignment("execution.device=cuda:1") == {"execution.device": "cuda:1"}
    assert assignment("model.weights=a=b.pth") == {"model.weights": "a=b.pth"}
    assert assignment("quantization.layers={fc='float', 'layer4.*'=8}") == {
        "quantization.layers": {"fc": None, "layer4.*": 8}
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "NAME=VALUE"),
        ("reconstruction.iterations", "NAME=VALUE"),
        ("reconstruction.itertions=5", "reconstruction.iterations"),
        ("reconstruction.iterations=-1", "reconstruction.iterations"),
        ("reconstruction.iterations=2k", "2k"),
        ("reconstruction={iterations='x'}", "reconstruction.iterations"),
        ("iterations=5", "reconstruction.iterations"),
        ("=5", "model"),
        ("reconstruction=5", "reconstruction"),
        ("execution.preset=quick", "fast, default, best"),
        ("execution.seed=1979-05-27", "execution.seed"),
    ],
)
def test_assignments_that_cannot_be(text: str, named: str) -> None:
    with pytest.raises(ptq.InputError, match="--set") as error:
        assignment(text)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("bits = ", "TOML"),
        ("\xff", "TOML"),
        ("[" * 5000, "TOML"),
        ("bits = 4", "quantization.bits"),
        ("[quantization]\nbit = 4", "quantization.bits"),
        ("[quantisation]\nbits = 4", "quantization.bits"),
        ("[quantization]\nbits = 'four'", "'four'"),
        ("[quantization.layers]\nfc = 'integer'", "quantization.layers"),
        ("quantization = 4", "quantization"),
        ("[model]\nsize = [1, 2, 3]", "model.size"),
        ("[calibration.synthesis]\nlr = 0", "calibration.synthesis.lr"),
    ],
)
def test_recipes_that_cannot_be(here: Path, content: str, named: str) -> None:
    (here / "r.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ptq.InputError, match=r"--config.*r\.toml") as error:
        recipe_values("r.toml")
    assert named in str(error.value)
    result = dump("--model", "resnet18", "--bits", "4", "--config", "r.toml")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_a_recipe_without_a_model_is_one_for_the_command_line_alone(here: Path) -> None:
    (here / "r.toml").write_text("[quantization]\nbits = 4\n")
    with pytest.raises(ptq.InputError, match=r"r\.toml names no model"):
        read_recipe("r.toml")
    assert said(dump("--model", "vgg11", "--config", "r.toml"), here)["bits"] == 4


def test_a_recipe_that_is_not_there(here: Path) -> None:
    with pytest.raises(ptq.InputError, match=r"no\.toml"):
        recipe_values("no.toml")


def test_the_run_directory_has_the_name_of_model_and_bits() -> None:
    assert settings_from({"model": "vgg11", "bits": 4}).output.folder == "runs/vgg11-w4a8"
