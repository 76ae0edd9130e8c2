"""``fnship new``: writes a function that runs, to be changed into one's own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath
from typing import Final

import click

from fnship.cli.scaffold import STYLES, render_function
from fnship.errors import UsageError
from fnship.image.dockerfile import WATCHDOGS

__all__ = ["command"]


_HELP: Final = """Write a new function into DIR.

DIR may be there already, and may be "." for the current folder. Nothing is overwritten
without --force: where a file is in the way, nothing at all is written.

\b
  fnship new hello
  fnship new hello --style sync --single-requirements
  fnship new hello --watchdog native
"""


@click.command("new", help=_HELP, short_help="Write a new function into a folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--style",
    type=click.Choice(STYLES),
    default="async",
    show_default=True,
    help="async def handle, plain def handle, or that behind the Flask-era server.",
)
@click.option(
    "--single-requirements",
    is_flag=True,
    help="One requirements.txt, in place of one for the server and one for the function.",
)
@click.option(
    "--watchdog",
    type=click.Choice(WATCHDOGS),
    default="of-watchdog",
    show_default=True,
    help="For the image: a watchdog process before the server, or the server as its own.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there already.")
def command(
    folder: Path, style: str, single_requirements: bool, watchdog: str, force: bool
) -> None:
    """Write the files, or none of them."""
    from fnship import __version__
    from fnship.image.wheel import own_wheel

    texts = render_function(
        folder.resolve().name,
        version=__version__,
        style=style,
        single_requirements=single_requirements,
        watchdog=watchdog,
    )
    rendered = {path: text.encode() for path, text in texts.items()}
    wheel, content = own_wheel()
    rendered[PurePosixPath("wheels", wheel)] = content
    _check(folder, list(rendered), force=force)
    try:
        for path, data in rendered.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    except OSError as exc:
        raise UsageError(f"cannot write {exc.filename}: {exc.strerror}") from exc
    click.echo(f"Wrote a function into {folder}:")
    for path in rendered:
        click.echo(f"  {path}")
    click.echo()
    click.echo("Next:")
    if folder.resolve() != Path.cwd():
        click.echo(f"  cd {shlex.quote(str(folder))}")
    click.echo(f"  fnship run --reload{' --server flask' if style == 'flask' else ''}")
    click.echo("""  curl -s http://127.0.0.1:5000/ -d '{"name": "Ada"}'""")


def _check(folder: Path, paths: list[PurePosixPath], *, force: bool) -> None:
    """Refuse before the first byte is written.

    Raises:
        UsageError: Something is in the way; names all of it.
    """
    folders = {folder, *(folder / path.parent for path in paths), *folder.parents}
    blocked = sorted(each for each in folders if os.path.lexists(each) and not each.is_dir())
    if blocked:
        raise UsageError(f"{blocked[0]} is a file, where a folder is needed")
    there = [path for path in paths if os.path.lexists(folder / path)]
    if there and not force:
        raise UsageError(
            f"in the way in {folder}: {', '.join(map(str, there))}. Nothing was written; "
            "take another folder, or overwrite them with --force"
        )
    for path in there:
        if (folder / path).is_dir():
            raise UsageError(f"{folder / path} is a folder, where a file is needed")
