"""What a user of ptq can act on, by kind: every error it raises on purpose is a `PtqError`."""

__all__ = ["ExportError", "InputError", "MachineError", "ModelError", "PtqError", "ValidationError"]


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
