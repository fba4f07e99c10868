"""What a user of ptq can act on, by kind: every error it raises on purpose is a `PtqError`."""

import re

__all__ = ["ExportError", "InputError", "MachineError", "ModelError", "PtqError", "ValidationError", "reason"]

_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class PtqError(Exception):
    """Something the user can act on: the message says what is wrong and what to do.

    The command line prints the message alone and exits with status 2. Raised as one of its kinds.

    Example:
        >>> try:
        ...     ptq.load_model("resnet5000")
        ... except ptq.PtqError as error:
        ...     print(type(error).__name__)
        InputError
    """


class InputError(PtqError):
    """What was given does not make sense: an option, an argument, a file or a folder."""


class ModelError(PtqError):
    """A network, or its weights, cannot be used as it is."""


class ExportError(PtqError):
    """A network cannot be written as ONNX, or a file cannot be read or run."""


class ValidationError(PtqError):
    """An exported file does not do what it should; the message has a line for each failed check."""


class MachineError(PtqError):
    """The machine lacks something: a package, a device, memory, disk space, a connection."""


def reason(error: BaseException) -> str:
    """Return what another library's error says, in one line that fits into a message of ours.

    Takes the first line that says something: lines that end in a colon announce the next one. A single word
    gets the name of the error before it. Terminal colors and the full stop are left out.

    Example:
        >>> reason(RuntimeError("Error(s) in loading:\\n\\tsize mismatch for fc.weight."))
        'size mismatch for fc.weight'
        >>> reason(KeyError("fc"))
        "KeyError 'fc'"
    """
    lines = [line.strip() for line in _TERMINAL_ESCAPE.sub("", str(error)).splitlines() if line.strip()]
    said = next((line for line in lines if not line.endswith(":")), lines[-1] if lines else "").rstrip(".:")
    return said if " " in said else f"{type(error).__name__} {said}".rstrip()
