"""Sizes as people write them, and numbers as they read them."""

import math

import pytest
from hypothesis import given, strategies as st

from ptq.errors import InputError
from ptq.utils.units import (
    byte_count,
    byte_text,
    decibel_text,
    duration_text,
    file_size_text,
    latency_text,
    nats_text,
    number_text,
    percent_text,
    range_text,
    ratio_text,
    short_text,
    thread_text,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("12B", 12),
        ("512M", 512 << 20),
        ("1GiB", 1 << 30),
        ("800MB", 800_000_000),
        (" 1.5 gib ", 3 << 29),
        ("2kb", 2000),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes_that_are_understood(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-1", "1 PB", "GiB", "1e9", "1,5G", "5%", "1GiBB", "nan"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="800MB"):
        byte_count(text)


@given(st.integers(0, 1 << 50))
def test_what_is_written_reads_as_nearly_the_same(count: int) -> None:
    assert byte_count(byte_text(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number_text(None), ""),
        (number_text(12.345, 1), "12.3"),
        (number_text(-8.25, sign=True), "−8.25"),
        (number_text(8.25, sign=True), "+8.25"),
        (number_text(math.inf), "∞"),
        (number_text(-math.inf, sign=True), "−∞"),
        (number_text(math.nan), "nan"),
        (short_text(0.123456), "0.1235"),
        (short_text(-2.0), "−2"),
        (percent_text(100.0), "100.00 %"),
        (latency_text(0.064049), "0.06 ms"),
        (decibel_text(41.26), "41.3"),
        (nats_text(0.0), "0.0000"),
        (nats_text(0.00099), "1e-03"),
        (range_text(-6, 0.0312), "−6..0.031"),
        (ratio_text(4e6, 6e5), "6.7×"),
        (ratio_text(1.0, 0.0), "∞×"),
        (file_size_text(99_999), "100.0 kB"),
        (file_size_text(100_000), "0.10 MB"),
        (thread_text(None), ""),
        (thread_text(1), "1 thread"),
        (thread_text(8.0), "8 threads"),
    ],
)
def test_numbers_as_they_are_read(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1.0 min"), (3590, "59.8 min"), (3723, "1.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
