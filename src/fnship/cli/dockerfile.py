"""``fnship dockerfile``: writes the Dockerfile of a function that is there already."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Final

import click

from fnship.cli.output import note
from fnship.errors import UsageError
from fnship.image.container import BUILDERS, find_builder
from fnship.image.dockerfile import PYTHON_IMAGE, WATCHDOGS, Choices, is_edited, render

__all__ = ["command"]

_HELP: Final = """Write the Dockerfile of the function in DIR (the current folder by default).

One that is there is written anew, and keeps its watchdog and its images unless told otherwise.
One that was edited is kept.

\b
  fnship dockerfile --watchdog native
  fnship dockerfile --python-image python:3.12-slim-bookworm
  fnship dockerfile --pin
  fnship dockerfile --stdout
"""


@click.command("dockerfile", help=_HELP, short_help="Write the Dockerfile of a function.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--watchdog",
    type=click.Choice(WATCHDOGS),
    help="A watchdog process, or the server as its own.  [default: as it was, else of-watchdog]",
)
@click.option(
    "--python-image",
    metavar="NAME:TAG",
    help=f"The image to start from.  [default: as it was, else {PYTHON_IMAGE}]",
)
@click.option("--watchdog-image", metavar="NAME:TAG", help="The image to take /fwatchdog from.")
@click.option("--pin", is_flag=True, help="Name the images by the digest that the engine has.")
@click.option(
    "--builder", type=click.Choice(BUILDERS), help="Whom --pin asks.  [default: what is there]"
)
@click.option(
    "--secret/--no-secret",
    default=None,
    help="Let pip read its configuration from the build secret pip, which needs BuildKit.",
)
@click.option("--stdout", "to_stdout", is_flag=True, help="Show it, and write nothing.")
@click.option("--force", is_flag=True, help="Overwrite one that was edited.")
def command(
    folder: Path,
    watchdog: str | None,
    python_image: str | None,
    watchdog_image: str | None,
    pin: bool,
    builder: str | None,
    secret: bool | None,
    to_stdout: bool,
    force: bool,
) -> None:
    """Render it, and write it unless an edited one is there."""
    from fnship import __version__
    from fnship.image.requirements import read_requirements
    from fnship.image.source import check_source, choose, read_dockerfile

    check_source(folder)
    requirements = read_requirements(folder)
    there = read_dockerfile(folder)
    has = choose(folder, requirements, there)
    wanted = dataclasses.replace(
        has,
        watchdog=watchdog or has.watchdog,
        python_image=python_image or has.python_image,
        watchdog_image=watchdog_image or has.watchdog_image,
        secret=has.secret if secret is None else secret,
    )
    if pin:
        wanted = _pinned(wanted, builder)
    text = render(wanted, __version__)
    if to_stdout:
        click.echo(text, nl=False)
        return
    if there is not None and is_edited(there) and not force:
        raise UsageError(
            f"{folder / 'Dockerfile'} is edited, and is kept. See what it would be with --stdout, "
            "or overwrite it with --force"
        )
    _write(folder, {"Dockerfile": text.encode(), **_companions(folder)})


def _pinned(choices: Choices, wanted: str | None) -> Choices:
    builder = find_builder(wanted, os.environ)
    python_image = builder.pinned(choices.python_image)
    if choices.watchdog == "native":
        return dataclasses.replace(choices, python_image=python_image)
    return dataclasses.replace(
        choices, python_image=python_image, watchdog_image=builder.pinned(choices.watchdog_image)
    )


def _companions(folder: Path) -> dict[str, bytes]:
    """What the Dockerfile needs beside it, and the folder does not have."""
    from fnship.cli.scaffold import render_file
    from fnship.image.requirements import read_requirements
    from fnship.image.source import check_own_wheel, missing_wheel
    from fnship.image.wheel import own_wheel

    companions: dict[str, bytes] = {}
    if not (folder / ".dockerignore").exists():
        companions[".dockerignore"] = render_file(".dockerignore").encode()
    requirements = read_requirements(folder)
    path = missing_wheel(folder, requirements)
    if path is not None:
        companions[path.relative_to(folder).as_posix()] = own_wheel()[1]
        return companions
    try:
        check_own_wheel(folder, requirements)
    except UsageError as exc:
        note(f"fnship: note: {exc}")
    return companions


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as exc:
            raise UsageError(f"cannot write {exc.filename}: {exc.strerror}") from exc
        click.echo(f"Wrote {path}")
