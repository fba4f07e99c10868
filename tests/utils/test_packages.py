"""Files of packages are found without running them."""

import sys

from ptq.utils.packages import files_of_package


def test_a_package_is_found_and_not_run() -> None:
    assert "this" not in sys.modules
    assert [path.name for path in files_of_package("this", "this.py")] == ["this.py"]
    assert "this" not in sys.modules


def test_what_is_not_there_has_no_files() -> None:
    assert files_of_package("no_such_package", "*") == []
    assert files_of_package("ptq", "no such file") == []
