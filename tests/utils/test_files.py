from pathlib import Path

import pytest

import ptq
from ptq.utils.files import atomic, sweep


def test_writes_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    with atomic(tmp_path / "deep" / "a.json") as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("{}")
    assert (tmp_path / "deep" / "a.json").read_text() == "{}"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic(target) as temporary:
            temporary.write_text("half of the ne")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic(tmp_path / "a.txt"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def write() -> None:
        with atomic(tmp_path / "file" / "a.txt"):
            pass

    with pytest.raises(ptq.MachineError):
        write()


def test_what_a_kill_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        left = tmp_path / f"{temporary.name}.left"
        left.touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "deep").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", ".hidden", "deep"}
    sweep(tmp_path / "absent")  # nothing there: nothing to do
