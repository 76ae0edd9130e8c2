"""``fnship state``: looks at the engine's state store, and changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fnship.cli.arguments import read_source
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
from fnship.cli.output import json_text, show
from fnship.errors import MalformedJSON, UsageError
from fnship.function import codec

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])

_ITEM: Final = path("state", "item")


@click.group("state", short_help="Look at the engine's state store, and change it.")
def command() -> None:
    """Look at the engine's state store, and change it.

    A scope is an organization, a project of it, or an environment of that.
    """


def _scope_options(function: F) -> F:
    """Give a command the scope and the engine; their parameters go to `_query` and `Client`."""
    for option in (
        click.option("--environment", "environment_id", metavar="ID", help="Its environment."),
        click.option("--project", "project_id", metavar="ID", help="Its project."),
        click.option(
            "--organization",
            "organization_id",
            metavar="ID",
            default="default",
            show_default=True,
            help="Whose state it is.",
        ),
        engine_options,
    ):
        function = option(function)
    return function


def _query(scope: dict[str, Any], **more: object) -> dict[str, object]:
    if scope["environment_id"] and not scope["project_id"]:
        raise UsageError("--environment is given without --project: name the project too")
    return {**scope, **more}


@command.command("get")
@click.argument("key")
@_scope_options
@json_option
def get(key: str, engine: str | None, data: Path | None, as_json: bool, **scope: Any) -> None:
    """Show the value of KEY; with --json, its version too."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", _ITEM, query=_query(scope, key=key))
    if as_json:
        show_json(reply)
    else:
        show(json_text(reply.fields("value")["value"], indent=2))


@command.command("set")
@click.argument("key")
@click.argument("value", metavar="JSON|@FILE|-")
@click.option(
    "--version",
    type=click.IntRange(min=0),
    help="Write only if this is the current version; 0 only creates.",
)
@click.option("--ttl", metavar="DURATION", help="How long the key is kept.  [default: for ever]")
@_scope_options
@json_option
def set_(
    key: str,
    value: str,
    version: int | None,
    ttl: str | None,
    engine: str | None,
    data: Path | None,
    as_json: bool,
    **scope: Any,
) -> None:
    """Write a value, in JSON, under KEY; @FILE reads it from a file, - from stdin."""
    seconds = read_span("--ttl", ttl) if ttl is not None else None
    source, body = read_source(value, "the value")
    try:
        codec.decode(body)
    except MalformedJSON as exc:
        raise UsageError(
            f"{source} is no JSON: {exc}. A text stands in quotes: '\"text\"'"
        ) from exc
    with Client.find(engine, data) as client:
        query = _query(scope, key=key, version=version, ttl=seconds)
        reply = client.call("PUT", _ITEM, query=query, body=body)
    if as_json:
        show_json(reply)
    else:
        show(f"{key} is at version {reply.fields('version')['version']}")


@command.command("list")
@click.argument("prefix", default="")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="How many at most.",
)
@click.option("--cursor", metavar="TEXT", help="Go on where a list with --json ended.")
@_scope_options
@json_option
def list_(
    prefix: str,
    limit: int,
    cursor: str | None,
    engine: str | None,
    data: Path | None,
    as_json: bool,
    **scope: Any,
) -> None:
    """List the keys that start with PREFIX."""
    with Client.find(engine, data) as client:
        query = _query(scope, prefix=prefix, limit=limit, cursor=cursor)
        reply = client.call("GET", path("state"), query=query)
    if as_json:
        show_json(reply)
        return
    rows: list[tuple[object, ...]] = [
        (item["key"], item["version"], json_text(item["value"]))
        for item in reply.items("key", "version", "value")
    ]
    show_table(("KEY", "VERSION", "VALUE"), rows)
    if cursor := reply.fields("cursor")["cursor"]:
        click.echo(f"There are more: --cursor {cursor}", err=True)


@command.command("delete")
@click.argument("key")
@_scope_options
@json_option
def delete(key: str, engine: str | None, data: Path | None, as_json: bool, **scope: Any) -> None:
    """Delete KEY."""
    with Client.find(engine, data) as client:
        client.call("DELETE", _ITEM, query=_query(scope, key=key))
    if as_json:
        show_deleted(key)


@command.command("export")
@_scope_options
def export(engine: str | None, data: Path | None, **scope: Any) -> None:
    """Write every key of a scope to stdout, one JSON object a line."""
    with Client.find(engine, data) as client:
        for piece in client.text(path("state", "export"), **_query(scope)):
            show(piece, end="")


@command.command("import")
@click.argument("file", type=click.File("rb"))
@_scope_options
@json_option
def import_(file: Any, engine: str | None, data: Path | None, as_json: bool, **scope: Any) -> None:
    """Write what was exported, from FILE or - for stdin: all of it, or nothing."""
    with Client.find(engine, data) as client:
        reply = client.call("POST", path("state", "import"), query=_query(scope), body=file.read())
    if as_json:
        show_json(reply)
    else:
        click.echo(f"{reply.fields('imported')['imported']} keys written")
