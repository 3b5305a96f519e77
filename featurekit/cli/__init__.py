"""The command line: one command is one call."""

from __future__ import annotations

import sys
import warnings

import click

from featurekit import __version__
from featurekit.errors import FeaturekitError


class _Commands(click.Group):
    """Turns what a user can mend into a message and exit code 2, never a traceback.

    Interrupted, a command exits as a shell says that it was, and not with the code of a gate.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _tell
                return super().invoke(ctx)
        except FeaturekitError as error:
            click.echo(f"featurekit: {error}", err=True)
        except OSError as error:
            click.echo(f"featurekit: {error.strerror or error}: {error.filename or ''}", err=True)
        except KeyboardInterrupt:
            click.echo("featurekit: interrupted", err=True)
            sys.exit(130)
        sys.exit(2)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command when it is asked for, so that `--help` is quick."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = __import__(f"featurekit.cli.{cmd_name}", fromlist=["command"])
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101  # each module defines one
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return [
            "build",
            "audit",
            "check",
            "probe",
            "show",
            "verify",
            "prune",
            "export",
            "replay",
            "serve",
        ]


def _tell(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as the user can mend it: without the line of code that it is raised in."""
    click.echo(f"featurekit: warning: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featurekit")
def main() -> None:
    """Market bars and trading fills into training-ready tensors, feature scale made visible."""
