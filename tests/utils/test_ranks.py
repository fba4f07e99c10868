import pytest
import torch

from ptq.utils.ranks import _shares, add_up, by_first, dealt, gathered, joined, neighbors, portion, share, size


@pytest.mark.parametrize(
    ("count", "step", "ranks"), [(32, 1, 2), (32, 1, 5), (100, 16, 3), (40, 16, 3), (7, 16, 2), (3, 1, 8)]
)
def test_shares_are_all_rows_once_or_everywhere(count: int, step: int, ranks: int) -> None:
    shares = _shares(count, step, ranks)
    rows = [row for each in shares for row in range(count)[each.rows]]
    assert sum(each.weight for each in shares) == pytest.approx(1)
    if len({each.rows.start for each in shares}) == ranks:
        assert rows == list(range(count))
        assert all(each.rows.start % step == 0 and each.rows.stop > each.rows.start for each in shares)
    else:
        assert rows == list(range(count)) * ranks and -(-count // step) < ranks


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    values = torch.ones(3)
    with joined():
        add_up([values])
        assert size() == neighbors() == 1
        assert share(5).rows == slice(0, 5)
        assert dealt(str, [1, 2]) == list(map(str, portion([1, 2])))
        assert gathered(7) == [by_first(lambda: 7)]
    assert values.tolist() == [1, 1, 1]
