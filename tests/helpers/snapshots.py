"""Pages as they are committed in tests/snapshots: their words are asserted there and nowhere else."""

import difflib
import os

from tests.helpers import CHECKOUT

__all__ = ["assert_snapshot"]

FOLDER = CHECKOUT / "tests" / "snapshots"
RENEW = "PTQ_RENEW_SNAPSHOTS"


def assert_snapshot(name: str, text: str) -> None:
    """Compare a page with the file of that name; PTQ_RENEW_SNAPSHOTS=1 writes the file instead."""
    path = FOLDER / name
    if os.environ.get(RENEW):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    expected = path.read_text() if path.is_file() else ""
    changes = difflib.unified_diff(expected.splitlines(), text.splitlines(), "committed", "now", lineterm="", n=1)
    difference = "\n".join(changes)
    assert text == expected, f"{name} reads differently; if that is right: {RENEW}=1 make test\n{difference}"
