"""Finished work on disk, so that an interruption costs one piece at most: batches of images, ranges, blocks.

    folder/<name>.safetensors   tensors and facts of one finished piece
    folder/settings.json        where `resume` opened it: what decides the result, to say what differs

Every piece is sealed with a checksum of its content and of what it was made by. A piece that something else made, or
that is damaged, counts as none and is made again.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from ptq.errors import InputError, MachineError
from ptq.utils.digest import digest, file_digest
from ptq.utils.files import atomic, sweep
from ptq.utils.ranks import by_first, is_first
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["WorkStore", "resume"]

_SETTINGS = "settings.json"


class WorkStore:
    """The finished pieces of some work, each under a name.

    Args:
        folder: for this work alone; it is made with the first piece. None keeps nothing.
        made_by: all that decides what the pieces are, JSON-able.

    Attributes:
        found: names of the pieces that were there from the beginning.

    Example:
        >>> finished = WorkStore("runs/mine/run.part", made_by={"bits": 4, "seed": 0})
        >>> finished.write("batch-0000", {"images": torch.zeros(2, 3, 8, 8)}, {"loss": 0.5})
        >>> tensors, facts = finished.read("batch-0000")
        >>> facts
        {'loss': 0.5}
    """

    def __init__(self, folder: Path | str | None = None, made_by: Any = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.made_by = json.dumps(made_by)
        self.found = [path.stem for path in sorted(self._paths()) if self.read(path.stem) is not None]

    def write(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Keep tensors and JSON-able facts.

        Raises:
            MachineError: when the disk is full.
        """
        if self.folder is not None:
            facts = facts or {}
            save_tensors(self._path(name), tensors, {"facts": facts, "seal": self._seal(tensors, facts)})

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and facts that were kept; None where there are none."""
        if self.folder is None:
            return None
        try:
            header, tensors = read_header(self._path(name)), read_tensors(self._path(name))
        except (OSError, SafetensorError, ValueError):
            return None  # absent or damaged
        facts = header.get("facts", {})
        return (tensors, facts) if header.get("seal") == self._seal(tensors, facts) else None

    def save(self, name: str, module: nn.Module, facts: Mapping[str, Any] | None = None) -> None:
        """Keep the state of a module, which is the same on all ranks, and JSON-able facts; the first rank does it.

        Raises:
            MachineError: when the disk is full.
        """
        if is_first():
            self.write(name, module.state_dict(), facts)

    def restore(self, name: str, module: nn.Module) -> dict[str, Any] | None:
        """Give a module the state that was kept, and return the facts; None where there is none. All ranks get what the first one reads."""
        kept = by_first(lambda: self.read(name))
        if kept is None:
            return None
        state, facts = kept
        module.load_state_dict(state)
        return facts

    def vouch(self, path: Path) -> None:
        """Keep that a file is finished; its name without the suffix stands for it.

        Raises:
            MachineError: when the disk is full.
        """
        self.write(path.stem, {}, {"sha256": file_digest(path)})

    def vouches(self, path: Path) -> bool:
        """Return whether a file is finished and still what it was then."""
        kept = self.read(path.stem)
        return kept is not None and path.is_file() and kept[1]["sha256"] == file_digest(path)

    def words(self) -> str:
        """Say what was there from the beginning: "images, ranges, 3 blocks"; empty for nothing."""
        plain = [name for name in self.found if not re.search(r"-\d+$", name)]
        numbered = Counter(name.rpartition("-")[0] for name in self.found if name not in plain)
        return ", ".join([*plain, *(f"{n} {name}{'s' * (n > 1)}" for name, n in numbered.items())])

    def part(self, name: str) -> "WorkStore":
        """Return a store of its own for a part of the work, which is discarded with this one."""
        folder = None if self.folder is None else self.folder / name
        return WorkStore(folder, [json.loads(self.made_by), name])

    def forget(self) -> None:
        """Remove all pieces: something that they were made from is not there any more."""
        for path in self._paths():
            path.unlink()
        self.found = []

    def discard(self) -> None:
        """Remove all pieces, and the folder if nothing of others is in it: the work has ended.

        Raises:
            MachineError: when they cannot be removed.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            # First of all, so that what a kill leaves of the rest refuses nobody.
            (self.folder / _SETTINGS).unlink(missing_ok=True)
            for part in {path.parent for path in self.folder.glob("*/*.safetensors")}:
                WorkStore(part).discard()
            self.forget()
            sweep(self.folder)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise MachineError(f"cannot remove {self.folder} ({error.strerror}); remove it by hand.") from error

    def _seal(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
        content = f"{self.made_by}\n{digest(tensors)}\n{json.dumps(facts)}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _paths(self) -> list[Path]:
        return [] if self.folder is None else list(self.folder.glob("[!.]*.safetensors"))

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def resume(folder: Path, decides: Mapping[str, Any], restart: bool = False) -> WorkStore:
    """Open the store of a run: what an interrupted run with the same settings finished, or an empty one.

    Args:
        folder: for this run alone.
        decides: all that decides the result, JSON-able, by the names that a user knows.
        restart: whether to discard what is there.

    Raises:
        InputError: when what is there was made with other settings. They are named, and nothing is removed.

    Example:
        >>> finished = resume(Path("runs/mine/run.part"), {"bits": 4, "seed": 0})
        >>> finished.found
        []
    """
    decides = json.loads(json.dumps(decides))  # as it reads back: tuples as lists
    if restart:
        WorkStore(folder).discard()
    if changes := _changes(_read_settings(folder), decides):
        raise InputError(
            f"{folder} keeps an unfinished run of other settings: {'; '.join(changes)}. "
            "Take the same settings to continue it, another --out, or --restart, which discards it."
        )
    sweep(folder)
    with atomic(folder / _SETTINGS) as path:
        path.write_text(json.dumps(decides, indent=2) + "\n")
    return WorkStore(folder, decides)


def _read_settings(folder: Path) -> dict[str, Any] | None:
    try:
        there = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError, RecursionError):
        return None  # the files that are finished know what run they belong to
    return there if isinstance(there, dict) else None


def _changes(there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> list[str]:
    """What was decided otherwise there; nothing where nothing was decided."""
    if there is None:
        return []
    return [
        f"{name}: {_shown(there.get(name))} there, {_shown(here.get(name))} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]


def _shown(value: Any) -> str:
    return "not given" if value in (None, [], {}) else str(value)
