"""What compiled libraries print does not reach standard output, and all else does."""

import ctypes
import os

import pytest

from ptq.utils.native_output import native_output_hidden


def test_what_a_library_prints_is_gone_and_what_stands_around_it_stays(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    ctypes.CDLL(None).puts(b"before, buffered")
    with native_output_hidden():
        os.write(1, b"written\n")
        ctypes.CDLL(None).puts(b"buffered")
    print("after")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "before\nbefore, buffered\nafter\n"


def test_an_error_inside_leaves_standard_output_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="mine"), native_output_hidden():
        raise ValueError("mine")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"
