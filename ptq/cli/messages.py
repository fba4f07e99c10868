"""What a command says when it goes wrong, in one message, and while it works."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer
from typer.core import TyperGroup

from ptq.errors import PtqError
from ptq.progress import SILENT, Progress
from ptq.utils import ranks

__all__ = ["ReportedGroup", "progress", "reported"]

_OUT_OF_MEMORY = "error: out of memory: use --preset fast, a smaller --size, or a larger machine"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a user can act on into a message on stderr and exit status 2, without traceback.

    Ctrl-C exits with 130. Anything else is a bug of ours and keeps its traceback.
    """
    warnings.simplefilter("ignore")  # other libraries' warnings are about their own future
    warnings.filterwarnings("default", category=UserWarning, module=r"ptq\b")
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}") if ranks.is_first() else None
    try:
        yield
    except PtqError as error:
        _stop(f"error: {error}", error)
    except KeyboardInterrupt as error:
        _stop("interrupted; what was finished is kept, and the same command continues", error, status=130)
    except MemoryError as error:
        _stop(_OUT_OF_MEMORY, error)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _stop(_OUT_OF_MEMORY, error)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        reason = f"error: cannot write ({error.strerror})"
        _stop(f"{reason}: free some space, choose another --out, or set TMPDIR", error)


class ReportedGroup(TyperGroup):
    """Commands whose options and work are `reported`."""

    def invoke(self, ctx: Any) -> Any:
        """Read the options of a command and run it; where torchrun started several processes, on all, and the first one speaks."""
        with reported(), ranks.joined(), reported(), _spoken():
            return super().invoke(ctx)


def progress() -> Progress:
    """Live bars when stdout is a terminal, plain lines when it is not; silence where another process speaks."""
    if not ranks.is_first():
        return SILENT
    from rich.console import Console

    from ptq.cli.progress_bars import progress_for

    return progress_for(Console())


@contextmanager
def _spoken() -> Iterator[None]:
    """Let nothing but errors be said where another process speaks."""
    if ranks.is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _stop(message: str, cause: BaseException, status: int = 2) -> None:
    """End with one message, whichever of several processes is the first to have one."""
    if ranks.first_to_say():
        _say(message)
    raise typer.Exit(status) from cause


def _say(message: str) -> None:
    typer.echo(f"ptq: {message}", err=True)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out: its OutOfMemoryError on a GPU, a plain RuntimeError on a CPU."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)
