"""Files that are either whole or absent, and the folder of a run."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptq.errors import MachineError

__all__ = ["TEMPORARY", "atomic", "run_folder", "sweep"]

TEMPORARY = ".ptq-"  # how the names of unfinished files begin


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well.

    An exception or a full disk leaves the old file, or none, and never half of one. So does a kill, and
    the temporary file besides, for `sweep` to remove.

    Raises:
        MachineError: when the directory cannot be written or the disk is full.

    Example:
        >>> with atomic("report.json") as temporary:
        ...     _ = temporary.write_text("{}")
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that nobody else may read
        temporary.replace(path)
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}. Choose another --out or free some space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder; nobody may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
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
