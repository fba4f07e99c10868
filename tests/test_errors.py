"""What other libraries' errors become in a message of ours."""

import pytest

from ptq.errors import reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(), "ValueError"),
        (KeyError("fc"), "KeyError 'fc'"),
        (RuntimeError("\n  a size is wrong.\nwhile executing %conv"), "a size is wrong"),
        (RuntimeError("Exception from core.cpp:84:\nException from reader.cpp:148:\nno such type\n"), "no such type"),
        (RuntimeError("this is \x1b[96mstep 3/3\x1b[0m"), "this is step 3/3"),
        (RuntimeError("failed at line:"), "failed at line"),
    ],
)
def test_the_reason_is_the_first_line_that_says_something(error: Exception, said: str) -> None:
    assert reason(error) == said
