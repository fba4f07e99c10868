"""The finished work of a run that has not ended yet, on disk: what a run after a kill need not do again.

    folder/settings.json              everything that decides the run's result
    folder/<name>.safetensors         what one finished stage or block gave

Every file is sealed with a checksum of its content and of the run: one of another run, or damaged, counts as none.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from ptq.errors import InputError, MachineError
from ptq.utils.digest import digest, file_digest
from ptq.utils.files import atomic, sweep
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["WorkStore", "resume"]

_FILES = "[!.]*.safetensors"


class WorkStore:
    """What is finished: states of modules and files, each under a name.

    Args:
        folder: None keeps nothing.
        run: tells this run from any other.

    Attributes:
        found: names that were there from the beginning.

    Example:
        >>> finished = WorkStore(Path("runs/mine/run.part"), run="4 bits, seed 0")
        >>> finished.save("block-0000", block, {"sqnr": 31.5})
        >>> finished.restore("block-0000", block)
        {'sqnr': 31.5}
    """

    def __init__(self, folder: Path | None = None, run: str = "") -> None:
        self.folder, self.run = folder, run
        files = [] if folder is None else sorted(folder.glob(_FILES))
        self.found = [file.stem for file in files if self._read(file.stem) is not None]

    def save(self, name: str, module: nn.Module, facts: Mapping[str, Any] | None = None) -> None:
        """Keep the state of a module, and JSON-able facts.

        Raises:
            PtqError: when the disk is full.
        """
        self._write(name, module.state_dict(), facts or {})

    def restore(self, name: str, module: nn.Module) -> dict[str, Any] | None:
        """Give a module the state kept under a name, and return its facts; None where there is none."""
        kept = self._read(name)
        if kept is None:
            return None
        state, facts = kept
        module.load_state_dict(state)
        return facts

    def vouch(self, path: Path) -> None:
        """Keep that a file is finished; its name without the suffix stands for it.

        Raises:
            PtqError: when the disk is full.
        """
        self._write(path.stem, {}, {"sha256": file_digest(path)})

    def vouches(self, path: Path) -> bool:
        """Whether a file is finished, and what it was then."""
        kept = self._read(path.stem)
        return kept is not None and path.is_file() and kept[1]["sha256"] == file_digest(path)

    def forget(self) -> None:
        """Remove what is finished: something that all of it was made from is not there any more."""
        if self.folder is not None:
            for path in self.folder.glob(_FILES):
                path.unlink()
        self.found = []

    def words(self) -> str:
        """What was there from the beginning, for people: "images, ranges, 3 blocks"; empty for nothing."""
        plain = [name for name in self.found if not re.search(r"-\d+$", name)]
        numbered = Counter(name.rpartition("-")[0] for name in self.found if name not in plain)
        return ", ".join([*plain, *(f"{n} {name}{'s' * (n > 1)}" for name, n in numbered.items())])

    def discard(self) -> None:
        """Remove everything: the run has ended."""
        if self.folder is not None:
            _discard(self.folder)

    def _write(self, name: str, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if self.folder is not None:
            header = {"facts": facts, "seal": self._seal(state, facts)}
            save_tensors(self._path(name), state, header)

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if self.folder is None:
            return None
        try:
            header, state = read_header(self._path(name)), read_tensors(self._path(name))
        except (OSError, SafetensorError, ValueError):
            return None  # absent or damaged: it is done again
        facts = header.get("facts", {})
        return (state, facts) if header.get("seal") == self._seal(state, facts) else None

    def _seal(self, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
        content = f"{self.run}\n{digest(state)}\n{json.dumps(facts)}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def resume(folder: Path, decides: Mapping[str, Any], restart: bool = False) -> WorkStore:
    """Open the record of a run: the one of a run with the same settings that did not end, or a new one.

    Args:
        folder: of the record; nobody else's.
        decides: all that decides the result, JSON-able, by the names that a user knows.
        restart: discard what is there.

    Raises:
        PtqError: when what is there was decided otherwise; it says by what, and is left as it is.

    Example:
        >>> finished = resume(Path("runs/mine/run.part"), {"bits": 4, "seed": 0})
        >>> finished.found
        []
    """
    decides = json.loads(json.dumps(decides))  # as it reads back: tuples as lists
    if restart:
        _discard(folder)
    if changes := _changes(_read_settings(folder), decides):
        raise InputError(
            f"{folder} keeps an unfinished run of other settings: {'; '.join(changes)}. "
            "Take the same settings to continue it, another --out, or --restart, which discards it."
        )
    sweep(folder)
    content = json.dumps(decides, indent=2) + "\n"
    with atomic(folder / "settings.json") as path:
        path.write_text(content)
    return WorkStore(folder, hashlib.sha256(content.encode()).hexdigest())


def _read_settings(folder: Path) -> dict[str, Any] | None:
    try:
        there = json.loads((folder / "settings.json").read_text())
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


def _discard(folder: Path) -> None:
    try:
        # First of all, so that what a kill leaves of the rest refuses nobody.
        (folder / "settings.json").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise MachineError(f"cannot remove {folder} ({error.strerror}); remove it by hand.") from error
