"""Files that are either whole or absent, and the folder of a run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptq.errors import MachineError

__all__ = ["TEMPORARY", "atomic", "run_folder", "sweep"]

TEMPORARY = ".ptq-"  # how the names of unfinished files begin


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path of the same name that replaces `path` when the block ends well.

    An exception or a full disk leaves the old file, or none, and never half of one. So does a kill, and
    the temporary folder besides, for `sweep` to remove. What the block writes beside the temporary path is moved beside
    `path`, before it: a file that is there has all that it refers to.

    Raises:
        MachineError: when the directory cannot be written or the disk is full.

    Example:
        >>> with atomic("report.json") as temporary:
        ...     _ = temporary.write_text("{}")
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{TEMPORARY}{path.stem}-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            beside = [file for file in Path(folder).iterdir() if file != temporary]
            if beside:
                path.unlink(missing_ok=True)  # it may refer to the old ones
            for file in (*beside, temporary):
                file.chmod(0o666 & ~_umask())  # some libraries write files that nobody else may read
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}. Choose another --out or free some space."
        ) from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder; nobody may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def run_folder(out: str) -> Path:
    """Make the run directory and return it.

    Raises:
        MachineError: when it cannot be made or written: an hour of work should not end there.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make {folder} ({error.strerror}); choose another --out.") from error
    if not os.access(folder, os.W_OK):
        raise MachineError(f"cannot write into {folder}; choose another --out.")
    return folder
