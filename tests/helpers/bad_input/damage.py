"""Files as they should not be: cut short, hostile, or just there to be spoilt."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.bad_input.case import NETWORK

__all__ = ["Attack", "cut", "cut_safetensors", "picture", "state"]


class Attack:
    """A pickle that writes a file when it is loaded as one."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return exec, ("open('pwned', 'w')",)


def state(folder: Path, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    names: dict[str, object] = {}
    exec(compile(NETWORK, "net.py", "exec"), names)
    state: dict[str, torch.Tensor] = names["net"]().state_dict()  # type: ignore[operator]
    return {**state, **changes}


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def cut_safetensors(at: Path) -> None:
    save_file(state(at), at / "w.safetensors")
    cut(at / "w.safetensors")


def picture(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path
