"""The one exception a user of ptq ever sees."""

__all__ = ["PtqError"]


class PtqError(Exception):
    """Something the user can act on: the message says what is wrong and what to do.

    The command line prints the message alone and exits with status 2.
    """
