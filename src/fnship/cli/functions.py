"""``fnship functions``: registers functions with the engine, shows and removes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from fnship.cli.arguments import read_url
from fnship.cli.client import (
    Client,
    engine_options,
    json_option,
    path,
    show_deleted,
    show_json,
    show_table,
)
from fnship.cli.engine import read_span
from fnship.cli.output import note
from fnship.errors import MalformedJSON, UsageError

__all__ = ["command"]


_HELP: Final = """Register functions with the engine, look at them, remove them.

\b
  fnship functions put hello --url http://127.0.0.1:5000
  fnship functions put hello --folder hello
  fnship functions put hello --image hello:1.0
  fnship functions list
"""


@click.group("functions", help=_HELP, short_help="Register functions with the engine.")
def command() -> None:
    """Register functions with the engine, look at them, remove them."""


@command.command("list")
@engine_options
@json_option
def list_functions(engine: str | None, data: Path | None, as_json: bool) -> None:
    """List every function."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", path("functions"))
    if as_json:
        show_json(reply)
        return
    head = ("name", "timeout", "concurrency", "attempts", "where")
    items = reply.items("name", "timeout", "concurrency", "retry")
    show_table(head, [_row(each) for each in items])


@command.command("get")
@click.argument("name")
@engine_options
@json_option
def get(name: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Show one function."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", path("functions", name))
    if as_json:
        show_json(reply)
        return
    shown = reply.fields("name", "retry")
    retry = shown.pop("retry")
    rows = [*shown.items(), *((f"retry.{key}", value) for key, value in retry.items())]
    show_table(("what", "value"), rows)


@command.command("put")
@click.argument("name")
@click.option("--url", metavar="URL", help="Where it answers.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder it is in, which the engine serves.",
)
@click.option("--image", metavar="NAME[:TAG]", help="The image it is in, which the engine runs.")
@click.option("--memory", metavar="SIZE", help="Image: how much it may use.  [default: 512m]")
@click.option("--cpus", metavar="N", help="Image: how many it may use.  [default: all]")
@click.option(
    "--timeout",
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="What one attempt may take.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    metavar="COUNT",
    help="Requests at once.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    metavar="COUNT",
    help="How often an activity may fail.  [default: 5]",
)
@click.option("--retry", metavar="JSON", help="The whole retry policy, an object.")
@engine_options
@json_option
def put(
    name: str,
    url: str | None,
    folder: Path | None,
    image: str | None,
    memory: str | None,
    cpus: str | None,
    timeout: str,
    concurrency: int,
    max_attempts: int | None,
    retry: str | None,
    engine: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Register a function, or change it: what is not given becomes its default."""
    if sum(each is not None for each in (url, folder, image)) != 1:
        raise UsageError("give one of --url, --folder and --image")
    for option, value in (("--memory", memory), ("--cpus", cpus)):
        if value is not None and image is None:
            raise UsageError(f"{option} is for --image alone")
    body: dict[str, Any] = {
        "timeout": read_span("--timeout", timeout),
        "concurrency": concurrency,
        "retry": _policy(retry),
    }
    if max_attempts is not None:
        body["retry"]["max_attempts"] = max_attempts
    if url is not None:
        body["url"] = read_url(url)
    elif folder is not None:
        body["folder"] = str(folder.absolute())
    else:
        body.update({"image": image, "memory": memory, "cpus": cpus})
    with Client.find(engine, data) as client:
        reply = client.call("PUT", path("functions", name), body=body)
    if as_json:
        show_json(reply)
    else:
        note(f"fnship: {name} is {'registered' if reply.status == 201 else 'changed'}")


@command.command("delete")
@click.argument("name")
@engine_options
@json_option
def delete(name: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Remove a function. Activities of it that have not ended will fail."""
    with Client.find(engine, data) as client:
        client.call("DELETE", path("functions", name))
    if as_json:
        show_deleted(name)
    else:
        note(f"fnship: {name} is removed")


def _row(function: dict[str, Any]) -> tuple[object, ...]:
    return (
        function["name"],
        f"{function['timeout']:g}s",
        function["concurrency"],
        function["retry"]["max_attempts"],
        function.get("url") or function.get("folder") or function.get("image"),
    )


def _policy(text: str | None) -> dict[str, Any]:
    from fnship.function import codec

    if text is None:
        return {}
    try:
        policy = codec.decode(text.encode(errors="surrogateescape"))
    except MalformedJSON as exc:
        raise UsageError(f"--retry is not valid: {exc}") from exc
    if not isinstance(policy, dict):
        raise UsageError('--retry is no object such as {"max_attempts": 3}')
    return policy
