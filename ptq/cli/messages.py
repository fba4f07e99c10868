"""What a command says when it goes wrong, in one message, and while it works."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from ptq.errors import PtqError
from ptq.progress import Progress

__all__ = ["ReportedGroup", "progress", "reported"]

_OUT_OF_MEMORY = "out of memory: use --preset fast, a smaller --size, or a larger machine"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a user can act on into a message on stderr and exit status 2, without traceback.

    Ctrl-C exits with 130. Anything else is a bug of ours and keeps its traceback.
    """
    warnings.simplefilter("ignore")  # other libraries' warnings are about their own future
    warnings.filterwarnings("default", category=UserWarning, module=r"ptq\b")
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        yield
    except PtqError as error:
        _stop(str(error), error)
    except KeyboardInterrupt as error:
        _say("interrupted; what was finished is kept, and the same command continues")
        raise typer.Exit(130) from error
    except MemoryError as error:
        _stop(_OUT_OF_MEMORY, error)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _stop(_OUT_OF_MEMORY, error)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        reason = f"cannot write ({error.strerror})"
        _stop(f"{reason}: free some space, choose another --out, or set TMPDIR", error)


class ReportedGroup(TyperGroup):
    """Commands whose options and work are `reported`."""

    def invoke(self, ctx: Any) -> Any:
        """Read the options of a command and run it."""
        with reported():
            return super().invoke(ctx)


def progress() -> Progress:
    """Live bars when stdout is a terminal, plain lines when it is not."""
    from rich.console import Console

    from ptq.cli.progress_bars import progress_for

    return progress_for(Console())


def _stop(message: str, cause: BaseException) -> None:
    _say(f"error: {message}")
    raise typer.Exit(2) from cause


def _say(message: str) -> None:
    typer.echo(f"ptq: {message}", err=True)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out: its OutOfMemoryError on a GPU, a plain RuntimeError on a CPU."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)
