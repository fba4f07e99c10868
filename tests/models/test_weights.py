"""Weight files and downloads: what is read, what is refused, and that no code runs."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ptq
from ptq.models.model import load_model
from ptq.models.weights import read_weights


def test_the_number_of_classes_is_read_from_the_weights(tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5, squeezenet1_1

    torch.save(shufflenet_v2_x0_5(num_classes=10).state_dict(), tmp_path / "a.pth")
    assert load_model("shufflenet_v2_x0_5", tmp_path / "a.pth").num_classes == 10
    save_file(squeezenet1_1(num_classes=4).state_dict(), tmp_path / "b.safetensors")
    assert load_model("squeezenet1_1", tmp_path / "b.safetensors").num_classes == 4
    with pytest.raises(ptq.ModelError, match=r"fc\.weight"):
        load_model("shufflenet_v2_x0_5", tmp_path / "a.pth", num_classes=11)


def test_no_network_is_one_message(no_network: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("shufflenet_v2_x0_5", "timm:test_resnet"):
        if name.startswith("timm:"):
            pytest.importorskip("timm")
        with pytest.raises(ptq.MachineError, match=f"{name}.*--weights"):
            load_model(name)
    assert capfd.readouterr() == ("", "")


def test_values_that_are_not_finite_are_refused(tiny: str, tmp_path: Path) -> None:
    state = load_model(tiny).module.state_dict()
    state["1.running_var"][2] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ptq.ModelError, match=r"nan\.pth: 1\.running_var"):
        load_model(tiny, tmp_path / "nan.pth")


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ptq-was-here",)


def test_files_that_are_no_weights_are_refused(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_model(tiny).module.state_dict()
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(_Malicious()))
    torch.save({"state_dict": _Malicious()}, tmp_path / "wrapped_code.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-500])
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "no_tensors.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    names = [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name != "whole.pth"]
    for name in (*names, "absent.pth"):
        with pytest.raises(ptq.InputError, match=name):
            load_model(tiny, Path(name))
    assert len(names) == 8 and not (tmp_path / "ptq-was-here").exists()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"extra": torch.zeros(1)}, "extra"),
        ({"0.bias": None}, r"0\.bias"),
        ({"0.weight": torch.zeros(4, 3, 5, 5)}, r"0\.weight is \(4, 3, 5, 5\).*\(4, 3, 3, 3\)"),
        ({"0.weight": torch.zeros(4, 3, 3, 3).to_sparse()}, r"0\.weight"),
    ],
)
def test_weights_of_another_network_are_refused(
    tiny: str, tmp_path: Path, changes: dict[str, Tensor | None], names: str
) -> None:
    state = {**load_model(tiny).module.state_dict(), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "w.pth")
    with pytest.raises(ptq.ModelError, match=names):
        load_model(tiny, tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", None])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    state = {f"{prefix}weight": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["weight"]


def test_a_missing_counter_of_batches_does_not_matter(tiny: str, tmp_path: Path) -> None:
    state = load_model(tiny).module.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    assert load_model(tiny, tmp_path / "old.pth").num_classes == 5
