"""Every mistake of the tables in tests/helpers/bad_input: one message, exit status 2, nothing half-written, no traceback."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ptq.data.datasets import load_images
from ptq.data.preprocess import Preprocess
from ptq.utils.files import TEMPORARY
from tests.helpers import CHECKOUT
from tests.helpers.bad_input import CASES
from tests.helpers.bad_input.case import NETWORK, Case, prepare_folder, quantize
from tests.helpers.bad_input.options import OPTIONS


def call(*arguments: str) -> Result:
    from ptq.cli.commands import app

    return CliRunner().invoke(app, arguments)


def nobody_answers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of net.py:net."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = call(*quantize("--threads", "1"))
    assert (folder / "run" / "report.json").exists(), result.output
    return folder / "run"


def test_the_table_is_long_enough_and_says_everything_once() -> None:
    assert len({case.what for case in CASES}) == len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_one_message_and_status_2(case: Case, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nobody_answers(monkeypatch, tmp_path)
    prepare_folder(case, tmp_path, finished)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = call(*case.arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert case.says in " ".join(result.stderr.replace("│", " ").split())
    lines = [line for line in result.stderr.splitlines() if line.startswith("ptq: error: ")]
    assert len(lines) == 1 or "Usage: " in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "pwned").exists()
    left = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert not [p for p in left if p.name.startswith(TEMPORARY)]
    assert all(p.read_bytes() == content for p, content in before.items() if p in left)
    assert not {p.name for p in left - before.keys()} & {"model.onnx", "quantized.safetensors", "report.json"}


def in_a_process(*arguments: str, cwd: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as from a shell; `limit` is the size in bytes beyond which no file may grow."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "ptq", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=restrict,
    )


@pytest.mark.timed
def test_bad_options_take_no_torch_and_half_a_second_of_processor_time(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "net.py").write_text(NETWORK)
    for case in OPTIONS[::4]:
        before = os.times()
        result = in_a_process(*case.arguments, cwd=tmp_path)
        spent = sum(os.times()[2:4]) - sum(before[2:4])
        assert result.returncode == 2 and "torch was" not in result.stderr, case.what
        assert spent < 1.0, case.what  # processor time, most of it Python's own start


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 10_000])
def test_a_disk_that_is_full_is_one_message_and_leaves_no_half_of_a_file(limit: int, tmp_path: Path) -> None:
    """The limit on the size of a file stops writes as a full disk does, in every library."""
    (tmp_path / "net.py").write_text(NETWORK)
    result = in_a_process(*quantize("--threads", "1"), cwd=tmp_path, limit=limit)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "free some space" in result.stderr
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


@pytest.mark.slow
def test_ctrl_c_while_images_are_made_is_130_and_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    process = subprocess.Popen(
        [sys.executable, "-m", "ptq", "synthesize", "--model", "net.py:net", "--preset", "best", "--out", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "run").exists():
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Python ends itself by the signal where the interrupt came through `exec`; a shell says 130 for that, too.
    assert process.returncode in (130, -signal.SIGINT)
    assert errors.splitlines()[-1].startswith("ptq: interrupted") and "Traceback" not in errors
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


PREPROCESS = Preprocess((8, 8), 8, "bilinear", (0.5,) * 3, (0.5,) * 3)
RED = (200, 40, 20)


def _upright() -> Image.Image:
    """Red above blue."""
    image = Image.new("RGB", (10, 10), RED)
    image.paste((0, 0, 255), (0, 5, 10, 10))
    return image


def _rotated(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    _upright().rotate(90).save(folder / "a.png", exif=exif)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "LA", "L", "1"])
def test_images_of_every_mode_are_read(mode: str, tmp_path: Path) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    Image.new("RGB", (10, 12), RED).convert(mode).save(tmp_path / f"a.{suffix}")
    pixel = load_images(tmp_path, PREPROCESS)[0, :, 4, 4].tolist()
    gray = mode in ("L", "LA")
    if mode == "1":
        assert len(set(pixel)) == 1  # gray, from black and white
    else:
        wanted = (85, 85, 85) if gray else RED
        assert pixel == pytest.approx(wanted, abs=2 if mode != "P" else 60)


def test_images_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    _rotated(tmp_path)
    seen = load_images(tmp_path, PREPROCESS)[0]
    assert seen[:, 0, 4].tolist() == list(RED) and seen[:, 7, 4].tolist() == [0, 0, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_keep_their_upper_half(suffix: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    seen = load_images(tmp_path, PREPROCESS)[0]
    assert torch.equal(seen[0], torch.from_numpy((ramp >> 8).astype(np.uint8)))


def test_sizes_may_be_mixed(tmp_path: Path) -> None:
    for index, size in enumerate([(8, 8), (1, 1), (300, 7), (7, 300), (1, 4000), (64, 48)]):
        Image.new("RGB", size, RED).save(tmp_path / f"{index}.png")
    seen = load_images(tmp_path, PREPROCESS)
    assert seen.shape == (6, 3, 8, 8)
    assert all(image[:, 4, 4].tolist() == list(RED) for image in seen)
