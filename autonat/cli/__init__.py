"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

import signal
from typing import Any

import typer

# Importing them lets their commands join the application, and `--help` lists them in this order.
# isort: off
import autonat.cli.run_commands
import autonat.cli.study_commands
import autonat.cli.result_commands
import autonat.cli.network_commands  # noqa: F401

# isort: on
from autonat.cli.application import app
from autonat.errors import StudyStopped, UserError

__all__ = ["app", "main"]

# An unknown command, a missing argument, a wrong value: typer exports this class's children alone.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line: one line and exit status 2 for what the user can mend."""
    try:
        status = app(standalone_mode=False)
        if status == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        raise SystemExit(status or 0)
    except UserError as error:
        _fail(str(error))
    except UsageError as error:
        _fail_usage(error)
    except typer.Abort:
        typer.echo("nothing was changed", err=True)
        raise SystemExit(1) from None
    except StudyStopped:
        typer.echo("stopped: what was finished is kept; the same command goes on from there", err=True)
    except KeyboardInterrupt:
        typer.echo("interrupted: what was finished is kept; the same command goes on from there", err=True)
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:  # as run_study ends with one
            typer.echo("terminated: what was finished is kept; the same command goes on from there", err=True)
        raise
    except OSError as error:
        _fail(f"{error}; what was finished is kept, so the same command goes on from there")


def _fail(message: str) -> None:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)


def _fail_usage(error: Any) -> None:
    """One line for an unknown command, a missing argument or an option's wrong value."""
    command = error.ctx.command_path if error.ctx is not None else "autonat"
    message = error.format_message().strip().rstrip(".")
    if not message:
        raise SystemExit(2)  # no command at all: the help has been printed
    _fail(f"{message[0].lower()}{message[1:]} (see {command} --help)")
