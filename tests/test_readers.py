"""Damaged files: readers raise PtqError and nothing else. `python -m benchmarks.fuzz_readers` damages many more."""

import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptq.data.datasets import load_eval, load_images
from ptq.errors import PtqError
from ptq.utils.tensor_files import read_header, save_tensors
from tests.helpers.readers import PREPROCESS, READERS, Reader, escapes, mutate

TIMES = 60


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.filterwarnings("ignore")
def test_only_messages_escape(reader: Reader, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    seeds = [(path.name, path.read_bytes()) for path in reader.seeds(sound)]
    rng = random.Random(0)
    for turn in range(TIMES):
        folder = tmp_path / str(turn)
        folder.mkdir()
        name, data = seeds[turn % len(seeds)]
        # The first of each as they are: a reader that refuses everything would pass, too.
        (folder / name).write_bytes(data if turn < len(seeds) else mutate(data, rng))
        error = escapes(reader, folder / name)
        assert error is None, (name, turn, error)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_sound_files_are_read(reader: Reader, tmp_path: Path) -> None:
    for path in reader.seeds(tmp_path):
        folder = tmp_path / f"only {path.name}"
        folder.mkdir()
        (folder / path.name).write_bytes(path.read_bytes())
        reader.read(folder / path.name)


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(shape: str = "(1, 3, 4, 4)", content: bytes = bytes(48)) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (npy("(99999999999999, 3, 4, 4)"), "not a readable .npz"),  # more than any memory
        (npy("(9, 3, 4, 4)"), "not a readable .npz"),
        (npy("(1, 3, 4, 4"), "not a readable .npz"),  # a parenthesis that never closes
        (b"no array", "no array 'images'"),
    ],
)
def test_forged_arrays_are_refused(images: bytes, message: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", images=images, labels=npy("(1,)", bytes(1)))
    for read in (load_images, load_eval):
        with pytest.raises(PtqError, match=message):
            read(path, PREPROCESS)


def test_archives_that_zipfile_cannot_open_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((1, 3, 4, 4), np.uint8))
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    method, encrypted = bytearray(data), bytearray(data)
    method[8] = method[at + 10] = 99  # a compression that nobody knows
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    deflated = data[:start] + b"\xff" * 8 + data[start + 8 :]
    for damaged in (bytes(method), bytes(encrypted), deflated):
        path.write_bytes(damaged)
        with pytest.raises(PtqError, match=r"not a readable \.npz"):
            load_images(path, PREPROCESS)


def test_a_header_of_nothing_but_brackets_is_damaged(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, tmp_path / "a.safetensors", {"ptq": "[" * 200_000})
    with pytest.raises(ValueError, match="nested too deeply"):
        read_header(tmp_path / "a.safetensors")
    save_tensors(tmp_path / "b.safetensors", {}, {"format": "x"})
    assert read_header(tmp_path / "b.safetensors") == json.loads('{"format": "x"}')
