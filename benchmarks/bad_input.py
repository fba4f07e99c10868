"""Mistakes that users make, and what they are told: the tables in tests/helpers/bad_input, run through the command line.

    python -m benchmarks.bad_input

Writes results/bad_input.md: the mistake, the message as it is printed, the exit status.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from benchmarks.rows import RESULTS
from ptq.utils.files import atomic

OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    "COLUMNS": "200",
}
LONGEST = 300  # characters of a message on the page


def call(*arguments: str) -> Result:
    from ptq.cli.commands import app

    return CliRunner().invoke(app, arguments)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def message(result: Result) -> str:
    """What was printed, without frames and usage, cut where it is long."""
    lines = [line.strip("│ ") for line in result.stderr.splitlines() if not re.match("[╭╰]", line)]
    said = " ".join(line for line in lines if line and not line.startswith(("Usage", "Try ")))
    said = re.sub(r"(.)\1{30,}", r"\1\1\1…", said).removeprefix("ptq: ")
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def page(cases: Any, prepare_folder: Any, quantize: Any) -> Iterator[str]:
    """Lines of a Markdown page; every case in a folder of its own."""
    yield "# Mistakes, and what users are told\n"
    yield "Made by `python -m benchmarks.bad_input`. Every line is tested (tests/test_bad_input.py): one message, exit status 2, no"
    yield "traceback, and no file that is half written.\n"
    yield "| mistake | message | exit status |\n| --- | --- | --- |"
    with tempfile.TemporaryDirectory() as place:
        for index, case in enumerate(cases):
            folder = Path(place) / str(index)
            folder.mkdir()
            with inside(folder):
                if index == 0:
                    prepare_folder(case, folder, folder)
                    call(*quantize("--threads", "1"))
                    (folder / "run").rename(Path(place) / "run")
                    finished = Path(place) / "run"
                else:
                    prepare_folder(case, folder, finished)
                result = call(*case.arguments)
            said = message(result).replace("|", "\\|").replace("`", "'")
            yield f"| {case.what} | `{said}` | {result.exit_code} |"


def main() -> None:
    """Run all cases and write the page."""
    os.environ.update(OFFLINE)
    from tests.helpers.bad_input import CASES
    from tests.helpers.bad_input.case import prepare_folder, quantize

    with tempfile.TemporaryDirectory() as home:
        os.environ["TORCH_HOME"] = home
        lines = list(page(CASES, prepare_folder, quantize))
    with atomic(RESULTS / "bad_input.md") as path:
        path.write_text("\n".join(lines) + "\n")
    print(f"{len(CASES)} cases: {RESULTS / 'bad_input.md'}")


if __name__ == "__main__":
    main()
