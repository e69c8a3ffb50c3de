"""The application that the commands belong to."""

from typing import Annotated

import typer

app = typer.Typer(
    help="Tune masked-token image generators: generation schedules and training mask ratios.",
    epilog="Start with: autonat quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(asked: bool) -> None:
    if asked:
        from autonat import __version__

        typer.echo(f"autonat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""
