"""``fnship dev``: a function that reloads, and the engine around it, in one command."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fnship.cli.client import DEFAULT_PORT, DEV_DATA
from fnship.cli.output import note, show
from fnship.errors import EngineError, UsageError

if TYPE_CHECKING:
    from fnship.engine.engine import Engine

__all__ = ["command"]

_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9]+")
_HELP: Final = """Serve the function in DIR with an engine around it, until Ctrl-C.

The function starts anew after each save. What it writes and logs is shown as it comes. The engine
keeps its data in DIR/.fnship. In DIR the other commands find it there; elsewhere --data-folder
tells them.

\b
  fnship dev
  fnship activities invoke hello --wait 10
"""


@click.command("dev", help=_HELP, short_help="Serve a function with an engine around it.")
@click.argument(
    "folder", type=click.Path(path_type=Path), default=Path(), required=False, metavar="[DIR]"
)
@click.option("--name", metavar="NAME", help="What the function is called.  [default: DIR's name]")
@click.option(
    "--data",
    "--data-folder",
    "data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The engine's data folder.  [default: .fnship in the function's]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the engine; 0 for any free one.",
)
def command(folder: Path, name: str | None, data: Path | None, port: int) -> None:
    """Serve a function with an engine around it."""
    from fnship import contract
    from fnship.cli.engine import check_extra
    from fnship.cli.run import check_folder

    check_extra()
    check_folder(folder, contract.DEFAULT_TARGET)
    from fnship.engine.model import Function, Source
    from fnship.engine.options import EngineOptions
    from fnship.engine.server import open_listener, run_engine
    from fnship.server.sockets import address

    folder = folder.resolve()
    name = name or _NOT_IN_A_NAME.sub("-", folder.name.lower()).strip("-") or "function"
    data = data or folder / DEV_DATA
    with ExitStack() as stack:
        listener = stack.enter_context(open_listener("127.0.0.1", port))
        url = address(listener)
        options = EngineOptions(
            data=data, advertise_url=url, own_addresses=(url.removeprefix("http://"),)
        )

        def started(engine: Engine) -> None:
            engine.on_line = lambda _, line: show(line)
            note(f"fnship: the engine listens on {url}, with the function {name}")
            found = data == folder / DEV_DATA and Path.cwd().is_relative_to(folder)
            where = "" if found else f" --data-folder {shlex.quote(str(data))}"
            note(f"fnship: call it: fnship activities invoke {name}{where} --wait 10")

        function = Function(name=name, source=Source.FOLDER, location=str(folder))
        try:
            run_engine(
                options,
                listener,
                bridge=True,
                functions=[function],
                started=started,
                say=lambda sentence: note(f"fnship: {sentence}"),
            )
        except EngineError as exc:
            raise UsageError(str(exc)) from exc
