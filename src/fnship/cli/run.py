"""``fnship run``: serves a function folder while one works on it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from fnship import contract
from fnship.errors import UsageError

__all__ = ["check_folder", "command"]

_DEFAULTS: Final = {"LOG_FORMAT": "readable", "ACCESS_LOG": "true"}
"""What differs from production, unless the environment says otherwise."""


_HELP: Final = """Serve the function in DIR (the current folder by default) until Ctrl-C.

For development: one process, readable log lines, and an access log. In production the
function's own main.py serves it. With --image it runs an image instead, as production would:
with limits, a read-only root, and nothing that it may do as root.

\b
  fnship run --reload
  fnship run hello --port 8000
  fnship run --install
  fnship run --target function.other:handle
  fnship run --image hello:1.0 --memory 256m --env LOG_LEVEL=DEBUG
"""

_FOR_FOLDERS: Final = ("folder", "reload", "install", "host", "server", "target")
_FOR_IMAGES: Final = ("env", "memory", "cpus", "engine")


@click.command("run", help=_HELP, short_help="Serve a function while one works on it.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--reload", is_flag=True, help="Start the function anew when a file is saved.")
@click.option(
    "--install",
    is_flag=True,
    help="First install the folder's requirements into a .venv in it, and run with that.",
)
@click.option("--host", metavar="ADDRESS", help="Address to bind.  [default: HOST, else 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Port to bind; 0 for any free one.  [default: PORT, else 5000; 8080 for an image]",
)
@click.option(
    "--server",
    type=click.Choice(["asgi", "flask", "fastapi"]),
    help="What serves it.  [default: FUNCTION_SERVER, else asgi]",
)
@click.option(
    "--target",
    metavar="MODULE:NAME",
    help="The handler.  [default: FUNCTION_TARGET, else function.handler:handle]",
)
@click.option("--image", metavar="NAME[:TAG]", help="Run this image, in place of a folder.")
@click.option(
    "--env", multiple=True, metavar="NAME=VALUE", help="Image: set an environment variable."
)
@click.option(
    "--memory",
    default="512m",
    show_default=True,
    metavar="SIZE",
    help="Image: how much it may use.",
)
@click.option("--cpus", default="", metavar="N", help="Image: how many it may use.  [default: all]")
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    help="Image: what to run it with.  [default: what is there]",
)
@click.pass_context
def command(
    ctx: click.Context,
    folder: Path,
    reload: bool,
    install: bool,
    host: str | None,
    port: int | None,
    server: str | None,
    target: str | None,
    image: str | None,
    env: tuple[str, ...],
    memory: str,
    cpus: str,
    engine: str | None,
) -> int:
    """Serve until Ctrl-C."""
    from fnship.settings import Settings

    _check_together(ctx, image)
    if image is not None:
        from fnship.cli.run_image import run_image
        from fnship.image.running import Limits

        limits = Limits(memory=memory, cpus=cpus)
        return run_image(image, port=port, env=env, limits=limits, engine=engine)

    set_ones = {name: value for name, value in os.environ.items() if value.strip()}
    settings = Settings.from_env({**_DEFAULTS, **set_ones})
    settings = dataclasses.replace(
        settings,
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        server=settings.server if server is None else server,
        target=settings.target if target is None else target,
    )
    check_folder(folder, settings.target)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise UsageError("--reload needs one package more: pip install 'watchfiles>=1.1,<2'")
    if install:
        _run_in_its_own_environment(folder)
    from fnship.server import development

    return development.run(folder, settings, reload=reload)


def _check_together(ctx: click.Context, image: str | None) -> None:
    """Refuse what is for an image without one, and what is for a folder with one."""
    for name in _FOR_FOLDERS if image is not None else _FOR_IMAGES:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            shown = "DIR" if name == "folder" else f"--{name}"
            raise UsageError(
                f"{shown} is for --image alone"
                if image is None
                else f"{shown} is for a folder, not for --image"
            )


def _run_in_its_own_environment(folder: Path) -> NoReturn:
    """Become the same command in the folder's environment."""
    from fnship.cli.environment import ensure_environment

    python = str(ensure_environment(folder))
    arguments = [each for each in sys.argv[1:] if each != "--install"]
    os.execv(python, [python, "-m", "fnship", *arguments])  # noqa: S606 - our own command


def check_folder(folder: Path, target: str) -> None:
    """See that there is something to serve, before anything is started.

    Raises:
        UsageError: There is no such folder, or no handler in its usual place.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {problem}. Write a new function with: fnship new DIR")
    handler = folder.joinpath(*contract.DEFAULT_TARGET.partition(":")[0].split("."))
    if target == contract.DEFAULT_TARGET and not (
        handler.with_suffix(".py").is_file() or handler.is_dir()
    ):
        raise UsageError(
            f"there is no function/handler.py in {folder.resolve()}. Write a new function with "
            "`fnship new DIR`, or serve another handler with `fnship run --target module:name`"
        )
