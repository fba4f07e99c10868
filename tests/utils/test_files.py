from pathlib import Path

import pytest

import ptq
from ptq.utils.files import TEMPORARY, atomic, sweep


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


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_file_that_is_there_has_what_was_written_beside_it(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it stops between two moves; the old file may not refer to the new one beside it."""
    file, beside = tmp_path / "a.txt", tmp_path / "a.txt.data"
    move = Path.replace
    moved: list[str] = []

    def stops(source: Path, target: Path) -> Path:
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(target.name)
        return move(source, target)

    def write(text: str) -> None:
        with atomic(file) as temporary:
            for path in (temporary, temporary.with_name(beside.name)):
                path.write_text(text)

    write("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stops)
        if moves < 2:
            with pytest.raises(KeyboardInterrupt):
                write("new")
        else:
            write("new")
    assert moved == [beside.name, file.name][:moves]
    assert not file.exists() or file.read_text() == beside.read_text()
    write("newer")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "newer", "a.txt.data": "newer"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic(tmp_path / "a.txt"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.touch(0o600)
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
        temporary.touch()
        left = Path(f"{temporary.parent}.left")
        left.mkdir()
        (left / "a.txt").touch()
    (tmp_path / f"{TEMPORARY}b").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "deep").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", ".hidden", "deep"}
    sweep(tmp_path / "absent")  # nothing there: nothing to do
