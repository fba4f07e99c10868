"""The command line as a whole: what `ptq` alone does; `ptq.cli.commands` adds the commands."""

from importlib import metadata
from typing import Annotated

import typer

from ptq.cli.messages import ReportedGroup

__all__ = ["app", "main"]

app = typer.Typer(
    name="ptq",
    cls=ReportedGroup,
    help="Quantize vision networks without data: from PyTorch to integer ONNX.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; ends the process with its exit status."""
    app(prog_name="ptq")


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = metadata.version("ptq")
        except metadata.PackageNotFoundError:
            version = "(a checkout that is not installed)"
        typer.echo(f"ptq {version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
