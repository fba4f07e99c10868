"""The command line as a user meets it: messages, exit statuses, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ptq.cli.messages import reported
from ptq.errors import PtqError
from tests.helpers import CHECKOUT
from tests.helpers.reports import made_up


def call(*arguments: str) -> Result:
    from ptq.cli.commands import app

    return CliRunner().invoke(app, arguments)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as from a shell without a terminal."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "ptq", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_and_refusals_do_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    for arguments in (["--help"], ["quantize", "--help"], ["--version"]):
        result = run(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    result = run("quantize", "--model", "resnet18", "--bits", "9", cwd=tmp_path)
    assert (result.returncode, "torch was" in result.stderr) == (2, False)


def test_help_is_quick(tmp_path: Path) -> None:
    run("--help", cwd=tmp_path)  # the first one compiles
    before = os.times().children_user
    run("--help", cwd=tmp_path)
    # In processor time, because other tests run meanwhile.
    assert os.times().children_user - before < 0.5


QUANTIZE = ("quantize", "--model", "resnet18", "--bits", "4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*QUANTIZE, "--bits", "0"), "--bits"),
        ((*QUANTIZE, "--bits", "1"), "--bits"),
        ((*QUANTIZE, "--bits", "9"), "--bits"),
        ((*QUANTIZE, "--bits", "-3"), "--bits"),
        ((*QUANTIZE, "--bits", "four"), "--bits"),
        ((*QUANTIZE, "--act-bits", "16"), "--act-bits"),
        ((*QUANTIZE, "--preset", "quick"), "--preset"),
        ((*QUANTIZE, "--method", "magic"), "--method"),
        ((*QUANTIZE, "--seed", "-1"), "--seed"),
        ((*QUANTIZE, "--threads", "0"), "--threads"),
        ((*QUANTIZE, "--resize", "0"), "--resize"),
        ((*QUANTIZE, "--size", "0"), "--size: '0' is no size; give 224"),
        ((*QUANTIZE, "--size", "224x"), "--size"),
        ((*QUANTIZE, "--size", "-224"), "--size"),
        ((*QUANTIZE, "--mean", "0.5,,"), "--mean: '0.5,,'; give a number for each"),
        ((*QUANTIZE, "--std", "red"), "--std: 'red'; give a number for each"),
        ((*QUANTIZE, "--data", "nowhere"), "--data: there is nothing at nowhere"),
        ((*QUANTIZE, "--weights", "no.pth"), "--weights: there is nothing at no.pth"),
        ((*QUANTIZE, "--images", "mixmax"), "--images: 'mixmax' is none of mixmix, zeroq"),
        ((*QUANTIZE, "--teachers", "resnet18,,"), "--teachers: name a model"),
        ((*QUANTIZE, "--teachers", "no.py:net"), "--teachers: there is no file no.py"),
        ((*QUANTIZE, "--memory-limit", "lots"), "--memory-limit: 'lots' is no size; give 1GiB"),
        ((*QUANTIZE, "--device", "gpu"), "--device: 'gpu'; give cpu, cuda or cuda:N"),
        ((*QUANTIZE, "--out", "taken"), "--out: taken is a file; give a folder"),
        ((*QUANTIZE, "--color", "red"), "--color"),
        (("quantize", "--bits", "4"), "--model"),
        (("quantize", "--model", "resnet18"), "--bits"),
        (("quantize", "--model", "", "--bits", "4"), "--model: name a model"),
        (("quantize", "--model", "no.py:net", "--bits", "4"), "--model: there is no file no.py"),
        (("synthesize", "--model", "resnet18", "--size", "a"), "--size"),
        (("synthesize",), "--teachers"),
        (("synthesize", "--teachers", "no.py:net"), "there is no file no.py"),
        (("synthesize", "--teachers", "resnet18=taken", "--weights", "taken"), "--weights: resnet18 has"),
        (("validate", "nowhere"), "there is nothing at nowhere"),
        (("validate",), "RUN_DIR"),
        (("quantize",), "--model"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_images_for_any_network_are_made_by_all_teachers_alike(tmp_path: Path) -> None:
    from ptq.calibration import CalibrationSet

    head = "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)"
    networks = (f"def {name}(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), {head})" for name in "ab")
    size = "PREPROCESS = dict(size=16, mean=0.5, std=0.25)"
    (tmp_path / "net.py").write_text("\n".join(["from torch import nn", size, *networks]))
    few = [word for text in ("calibration.count=2", "calibration.synthesis.iterations=2") for word in ("--set", text)]
    teachers = ",".join(f"{tmp_path / 'net.py'}:{name}" for name in "ab")
    done = call("synthesize", "--teachers", teachers, *few, "--out", str(tmp_path / "set"))
    assert done.exit_code == 0, done.output
    made = CalibrationSet.load(tmp_path / "set" / "images.safetensors")
    assert made.images.shape == (2, 3, 16, 16) and made.provenance["classes"] == 5
    assert [teacher["name"] for teacher in made.provenance["teachers"]] == ["a", "b"]
    assert made.provenance["settings"]["feature_mixing"] == "turns"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PtqError("give other weights"), 2, "ptq: error: give other weights\n"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 3 GiB"), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_act_on_is_one_message(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as stop, reported():
        raise error
    assert stop.value.exit_code == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(5, "I/O"), KeyError(1)])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), reported():
        raise error


def test_a_report_is_made_anew_and_runs_are_compared(tmp_path: Path) -> None:
    from ptq.reporting.report_files import write_report

    write_report(made_up(), tmp_path / "a")
    made = call("report", str(tmp_path / "a"))
    assert made.exit_code == 0 and "report.html" in made.stdout
    assert (tmp_path / "a" / "report.html").is_file()
    out = tmp_path / "runs.csv"
    compared = call("compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(out))
    assert compared.exit_code == 0 and "2 runs of tinynet" in compared.stdout
    assert f"wrote {out}" in compared.stdout and out.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "none"), "none has no readable report.json"),
        (("compare", "none"), "there is no run directory none"),
        (("compare", ".", "none"), "there is no run directory none"),
        (("compare", ".", "--out", "a.pdf"), "endings .md, .csv, .html"),
        (("compare",), "RUN..."),
    ],
)
def test_runs_that_are_none_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())


def test_reading_runs_imports_no_torch(tmp_path: Path) -> None:
    from ptq.reporting.report_files import write_report

    write_report(made_up(), tmp_path / "a")
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    for command in (["report", "a"], ["compare", "a", "--out", "runs.html"]):
        result = run(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr


def test_without_the_extra_a_line_says_how_to_get_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ptq.cli.run_page import print_run
    from ptq.reporting.report_files import write_report

    folder = tmp_path / "my run"
    write_report(made_up(), folder)
    print_run(folder)
    out = capsys.readouterr().out
    assert "pip install 'ptq[report]'" in out and f"ptq report '{folder}'" in out  # to be pasted
    (folder / "report.html").touch()
    print_run(folder)
    assert "pip install" not in capsys.readouterr().out


NETWORK = """
import time
import torch
from torch import nn

PREPROCESS = dict(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))

def slow():
    print("waiting", flush=True)
    time.sleep(60)

def infinite():
    module = net()
    module[0].weight.data[0] = float("inf")
    return module
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a network, good and bad weights, and bad data."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.npz").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet5O"), "did you mean resnet50"),
        (("--model", "resnet50"), "--weights"),
        (("--model", "net.py:none"), "it has net, slow, infinite"),
        (("--model", "net.py:infinite"), "holds NaN or infinite values"),
        (("--model", "net.py:net", "--weights", "broken.pth"), "broken.pth"),
        (("--model", "net.py:net", "--weights", "broken.safetensors"), "broken.safetensors"),
        (("--model", "net.py:net", "--size", "1"), "does not run on 3x1x1 images"),
        (("--model", "net.py:net", "--std", "0"), "std"),
        (("--model", "net.py:net", "--mean", "123.7,116.3,103.5"), "0..255"),
        (("--model", "net.py:net", "--data", "empty"), "no folders of images"),
        (("--model", "net.py:net", "--data", "empty.npz"), "not a readable .npz"),
        (("--model", "net.py:net", "--device", "cuda:77"), "cuda:77"),
    ],
)
def test_bad_models_weights_and_data(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = call("quantize", "--bits", "4", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("ptq: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not list(folder.rglob("*.onnx"))


def test_a_stopped_run_continues_or_names_what_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptq.run import stages

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def quantize(*arguments: str) -> Result:
        command = ("quantize", "--model", "same.py:net", "--preset", "fast", "--images", "noise")
        return call(*command, "--out", "run", "--threads", "1", *arguments)

    seeded = NETWORK.replace("    return nn.S", "    torch.manual_seed(0)\n    return nn.S")
    (folder / "same.py").write_text(seeded)
    monkeypatch.setattr(stages, "export_qdq", stop)
    first = quantize("--bits", "4")
    assert first.exit_code == 130 and "continues" not in first.stdout
    kept = {path: path.read_bytes() for path in (folder / "run" / "run.part").iterdir()}
    refused = quantize("--bits", "3")
    assert refused.exit_code == 2 and "bits: 4 there, 3 here" in refused.stderr
    assert "--restart" in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in (folder / "run" / "run.part").iterdir()} == kept
    again = quantize("--bits", "4", "--memory-limit", "0")
    assert "continues an interrupted run: images, placement, ranges, 2 blocks already done" in again.stdout
    anew = quantize("--bits", "3", "--restart")
    assert anew.exit_code == 130 and "continues" not in anew.stdout
    assert "continues" in quantize("--bits", "3").stdout


def test_ctrl_c_is_one_line_and_130(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ptq", "quantize", "--model", "net.py:slow", "--bits", "4"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background of a shell ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("ptq: interrupted")
    assert len(errors.splitlines()) == 1
