"""Tensors on disk: what goes in comes out, and the same input gives the same bytes."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

HEADER = {"format": "test-1", "shape": [3, 8, 8], "about": {"model": None, "losses": [0.5, 0.25]}}
SAVE = """
import sys, torch
from ptq.utils.tensor_files import save_tensors
header = {key: key * 2 for key in "abcdefgh"}
save_tensors(sys.argv[1], {key: torch.arange(5) for key in "hgfedcba"}, header)
"""


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"weight": torch.rand(4, 3).t(), "count": torch.arange(3)}
    save_tensors(path, tensors, HEADER)
    back = read_tensors(path)
    assert read_header(path) == HEADER and back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in "123":  # hash seeds differ from process to process
        subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / name)], check=True)
    assert len({(tmp_path / name).read_bytes() for name in "123"}) == 1


def test_a_file_of_another_writer_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert read_header(path) == {}
    save_file({"x": torch.zeros(1)}, path, {"ptq": "[1]"})
    assert read_header(path) == {}
