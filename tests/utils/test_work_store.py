"""WorkStore work on disk: found again by the same run, by nobody else, and never half. Then: kills."""

import importlib
import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import nn

from ptq.errors import InputError
from ptq.utils.work_store import WorkStore, resume


def layer(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def test_states_and_facts_are_found_again(tmp_path: Path) -> None:
    first = WorkStore(tmp_path, "run")
    first.save("ranges", layer(0))
    first.save("block-0000", layer(1), {"sqnr": float("inf"), "layers": ("a", "b"), "seconds": 0.1})
    assert first.found == [] and first.words() == ""
    again = WorkStore(tmp_path, "run")
    assert again.found == ["block-0000", "ranges"] and again.words() == "ranges, 1 block"
    module = layer(2)
    assert again.restore("ranges", module) == {} and same(module, layer(0))
    facts = again.restore("block-0000", module)
    assert facts == {"sqnr": float("inf"), "layers": ["a", "b"], "seconds": 0.1}
    assert same(module, layer(1))
    assert again.restore("block-0001", module) is None and same(module, layer(1))


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "facts", "another run's"])
def test_damaged_files_and_those_of_others_count_as_none(damage: str, tmp_path: Path) -> None:
    WorkStore(tmp_path, "run").save("block-0000", layer(0), {"sqnr": 12.5})
    path = tmp_path / "block-0000.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-7]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped":
        content[-1] ^= 1
    elif damage == "facts":
        content = bytearray(bytes(content).replace(b"12.5", b"13.5"))
    path.write_bytes(content)
    finished = WorkStore(tmp_path, "another" if damage == "another run's" else "run")
    module = layer(1)
    assert finished.found == [] and finished.restore("block-0000", module) is None
    assert same(module, layer(1))
    finished.save("block-0000", layer(2))
    assert finished.restore("block-0000", module) == {} and same(module, layer(2))


def test_a_file_is_vouched_for_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    path.write_text("images")
    WorkStore(tmp_path / "part", "run").vouch(path)
    finished = WorkStore(tmp_path / "part", "run")
    assert finished.vouches(path) and finished.words() == "images"
    assert not WorkStore(tmp_path / "part", "another").vouches(path)
    path.write_text("other images")
    assert not finished.vouches(path)
    path.unlink()
    assert not finished.vouches(path)


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished, path = WorkStore(), tmp_path / "images"
    path.touch()
    finished.save("ranges", layer(0))
    finished.vouch(path)
    assert finished.restore("ranges", layer(1)) is None and not finished.vouches(path)
    finished.discard()
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_are_found_again_by_who_made_them(tmp_path: Path) -> None:
    made_by = {"seed": 0, "betas": (0.5, 0.9)}
    pixels = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    WorkStore(tmp_path / "parts", made_by).write("batch-0001", {"images": pixels}, {"loss": 0.1 + 0.2})
    again = WorkStore(str(tmp_path / "parts"), made_by)
    kept = again.read("batch-0001")
    assert kept is not None and torch.equal(kept[0]["images"], pixels) and kept[1] == {"loss": 0.1 + 0.2}
    assert again.read("batch-0000") is None
    assert WorkStore(tmp_path / "parts", {**made_by, "seed": 1}).read("batch-0001") is None


def test_a_part_has_pieces_of_its_own_and_ends_with_the_whole(tmp_path: Path) -> None:
    whole = WorkStore(tmp_path / "parts", "run")
    whole.save("block-0000", layer(0))
    whole.part("again").save("block-0000", layer(1))
    module = layer(2)
    assert WorkStore(tmp_path / "parts", "run").part("again").restore("block-0000", module) == {}
    assert same(module, layer(1))
    assert whole.part("other").restore("block-0000", module) is None
    assert WorkStore(tmp_path / "parts", "another").part("again").found == []
    whole.discard()
    assert not (tmp_path / "parts").exists()


def test_discarding_spares_what_is_not_of_the_store(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    WorkStore(parts).save("block-0000", layer(0))
    (parts / ".ptq-block-0001-x7d.safetensors").touch()  # what a kill left
    (parts / "mine.txt").touch()
    WorkStore(parts).discard()
    assert [path.name for path in parts.iterdir()] == ["mine.txt"]
    (parts / "mine.txt").unlink()
    WorkStore(parts).discard()
    WorkStore(parts).discard()  # nothing there: nothing to do
    assert not parts.exists()


SETTINGS = {"model": "net", "bits": 4, "size": (32, 32), "weights": None}


def test_the_same_settings_continue_and_others_are_named(tmp_path: Path) -> None:
    part = tmp_path / "run.part"
    resume(part, SETTINGS).save("ranges", layer(0))
    assert resume(part, SETTINGS).found == ["ranges"]
    before = {path.name: path.read_bytes() for path in part.iterdir()}
    other = {**SETTINGS, "bits": 3, "weights": "a.pth"}
    with pytest.raises(InputError) as error:
        resume(part, other)
    assert "bits: 4 there, 3 here; weights: not given there, a.pth here" in str(error.value)
    for advice in ("same settings", "--out", "--restart"):
        assert advice in str(error.value)
    assert "model" not in str(error.value) and "size" not in str(error.value)
    assert {path.name: path.read_bytes() for path in part.iterdir()} == before


def test_settings_that_one_of_two_has_are_named(tmp_path: Path) -> None:
    resume(tmp_path, SETTINGS)
    with pytest.raises(InputError, match=r"torch.*3\.0"):
        resume(tmp_path, {**SETTINGS, "torch": "3.0"})
    with pytest.raises(InputError, match=r"bits.*4"):
        resume(tmp_path, {"model": "net", "size": (32, 32), "weights": "a.pth"})
    resume(tmp_path, {**SETTINGS, "new": None})  # a setting that is new, and not given


def test_restart_discards_what_is_there(tmp_path: Path) -> None:
    resume(tmp_path, SETTINGS).save("ranges", layer(0))
    assert resume(tmp_path, {**SETTINGS, "bits": 3}, restart=True).found == []
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    assert json.loads((tmp_path / "settings.json").read_text())["bits"] == 3


@pytest.mark.parametrize("content", ["", '{"model": "ne', "[]"])
def test_without_settings_files_speak_for_themselves(content: str, tmp_path: Path) -> None:
    resume(tmp_path, SETTINGS).save("ranges", layer(0))
    (tmp_path / "settings.json").write_text(content)
    assert resume(tmp_path, {**SETTINGS, "bits": 3}).found == []
    (tmp_path / "settings.json").write_text(content)
    assert resume(tmp_path, SETTINGS).found == ["ranges"]


def test_what_a_kill_left_is_swept_and_the_end_leaves_nothing(tmp_path: Path) -> None:
    part = tmp_path / "run.part"
    finished = resume(part, SETTINGS)
    (part / ".ptq-block-0000-x7d.safetensors").write_text("half a fi")
    finished = resume(part, SETTINGS)
    assert [path.name for path in part.iterdir()] == ["settings.json"]
    finished.save("ranges", layer(0))
    finished.discard()
    assert list(tmp_path.iterdir()) == []


# Stages to kill a run in, how often, and within which share of the stage's time, at random.
KILLS = (
    ("synthesize", 2, 0.7),
    ("calibrate", 2, 0.7),
    ("reconstruct", 3, 0.3),
    ("export", 2, 0.7),
    ("validate", 2, 0.5),
)
NETWORK = """
from tests.helpers.networks import build
PREPROCESS = dict(size=16, mean=(0.3,) * 3, std=(0.35,) * 3)
def net():
    return build("resnet")
"""


def quantize(folder: Path, log: str, *arguments: str) -> None:
    """The command, in a process that has imported torch already."""
    os.chdir(folder)
    # Its own lock is a semaphore, which would outlive a kill.
    importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())
    from ptq.cli.commands import app

    with Path(log).open("a") as file, redirect_stdout(file):
        app(["quantize", *arguments, "--bits", "4", "--act-bits", "4", "--out", "run"])


def start(folder: Path, *arguments: str) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ptq.run.pipeline", "onnxruntime"])
    folder.mkdir(exist_ok=True)
    process = context.Process(target=quantize, args=(folder, "log.txt", *arguments))
    process.start()
    return process


def written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 for none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def stage(run: Path, since: int) -> str:
    """Where a run is, or was when it died, told by its files; `since` is when it began to work."""
    if written(run / "model.onnx") > since:
        return "validate"
    if written(run / "quantized.safetensors") > since:
        return "export"
    names = [path.stem for path in (run / "run.part").glob("[!.]*.safetensors")]
    return "reconstruct" if "ranges" in names else "calibrate" if "images" in names else "synthesize"


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_bit_for_bit_where_it_would_have(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = (
        "--model",
        f"{tmp_path / 'net.py'}:net",
        "--preset",
        "fast",
        "--method",
        "brecq",
        "--threads",
        "1",
        "--memory-limit",
        "100KiB",
        "--place",
        "integers",  # what is timed may come out otherwise the next time
    )
    undisturbed = start(tmp_path / "undisturbed", *arguments)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    other, run = tmp_path / "undisturbed" / "run", tmp_path / "killed" / "run"
    seconds = json.loads((other / "report.json").read_text())["seconds"]
    chance, hit, settings = random.Random(0), Counter[str](), run / "run.part" / "settings.json"
    for wanted, times, share in KILLS:
        for _ in range(times):
            before, delay = written(settings), chance.uniform(0, share * seconds[wanted])
            process = start(tmp_path / "killed", *arguments)
            while process.is_alive() and (written(settings) == before or stage(run, written(settings)) != wanted):
                time.sleep(0.001)
            process.join(delay)
            if process.exitcode is None:
                process.kill()
                process.join()
                hit[stage(run, written(settings))] += 1
    last = start(tmp_path / "killed", *arguments)
    last.join()
    assert last.exitcode == 0
    assert hit.total() >= 7 and set(hit) == {name for name, *_ in KILLS}, hit
    assert {path.name for path in run.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("quantized.safetensors", "model.onnx", "images.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    said = (tmp_path / "killed" / "log.txt").read_text()
    assert "continues an interrupted run: images, ranges, " in said
    print(f"{hit.total()} kills: {dict(hit)}", file=sys.stderr)
