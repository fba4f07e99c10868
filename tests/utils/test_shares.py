import pytest

from ptq.utils.shares import all_shares


@pytest.mark.parametrize(
    ("count", "step", "ranks"), [(32, 1, 2), (32, 1, 5), (100, 16, 3), (40, 16, 3), (7, 16, 2), (3, 1, 8)]
)
def test_shares_are_all_rows_once_or_everywhere(count: int, step: int, ranks: int) -> None:
    shares = all_shares(count, step, ranks)
    rows = [row for each in shares for row in range(count)[each.rows]]
    assert sum(each.weight for each in shares) == pytest.approx(1)
    if len({each.rows.start for each in shares}) == ranks:
        assert rows == list(range(count))
        assert all(each.rows.start % step == 0 and each.rows.stop > each.rows.start for each in shares)
    else:
        assert rows == list(range(count)) * ranks and -(-count // step) < ranks
