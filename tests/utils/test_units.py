"""Sizes as people write them."""

import pytest
from hypothesis import given, strategies as st

from ptq.errors import PtqError
from ptq.utils.units import byte_count, byte_text


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
    with pytest.raises(PtqError, match=r"--memory-limit: .* is no size; give 1GiB, 800MB"):
        byte_count(text)


@given(st.integers(0, 1 << 50))
def test_what_is_written_reads_as_nearly_the_same(count: int) -> None:
    assert byte_count(byte_text(count)) == pytest.approx(count, rel=0.006)
