"""The entry point: finds the command, and turns mistakes into one line and a status."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

import click

from fnship.cli.output import UNREACHABLE, USAGE, Unreachable, complain
from fnship.errors import UsageError

__all__ = ["main"]

_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
_COMMANDS: Final = (
    "new",
    "run",
    "invoke",
    "dockerfile",
    "build",
    "dev",
    "engine",
    "functions",
    "activities",
    "logs",
    "state",
)  # in the order in which one meets them

_HELP: Final = """Write one Python function, serve it, call it.

\b
  fnship new hello              write a function into the folder hello
  fnship run hello --reload     serve it on http://127.0.0.1:5000
  fnship invoke --data '{"name": "Ada"}'
                                call it, as an engine does

Each command has its own help: fnship new --help.
"""


class _Commands(click.Group):
    """Imports a command when it is asked for, so that the others cost nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"fnship.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from fnship import __version__

        click.echo(f"fnship {__version__}")
        ctx.exit()


_fnship = _Commands(
    "fnship",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        )
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands after ``fnship``; ``sys.argv`` by default.

    Returns:
        The exit status. 0: done. 2: a mistake of the user's, said in one line on stderr.
        130: interrupted. What else there is, the command's help says.
    """
    try:
        status = _fnship.main(arguments, prog_name="fnship", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.ctx.get_help(), err=True)
        return USAGE
    except click.ClickException as exc:
        complain(_one_line(exc))
        return USAGE
    except UsageError as exc:
        complain(str(exc))
        return USAGE
    except UnicodeEncodeError:
        # What a shell hands over as other bytes than UTF-8; files may be called so, and no more.
        complain("an argument is not UTF-8, and cannot be sent")
        return USAGE
    except Unreachable as exc:
        complain(str(exc))
        return UNREACHABLE
    except click.Abort:
        return _INTERRUPTED
    return status if isinstance(status, int) else 0


def _one_line(exc: click.ClickException) -> str:
    message = " ".join(exc.format_message().split()).rstrip(".")
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    if context is None:
        return message
    return f"{message}. Its help says more: {context.command_path} --help"
