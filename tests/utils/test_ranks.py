import pytest
import torch

from ptq.utils.ranks import by_first, dealt, gathered, joined, neighbors, portion, size
from ptq.utils.shares import add_up, share


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
