"""``fnship engine``: runs an engine, and makes the tokens of its API."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fnship.cli.client import (
    DEFAULT_PORT,
    TOKEN,
    Client,
    default_data,
    engine_options,
    json_option,
    path,
    show_deleted,
    show_json,
    show_table,
)
from fnship.cli.output import note
from fnship.durations import parse_duration
from fnship.errors import EngineError, UsageError

if TYPE_CHECKING:
    from fnship.engine.engine import Engine

__all__ = ["check_extra", "command", "read_span"]

_ROLES: Final = ("read", "invoke", "admin")
_DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)
_FRACTION: Final = re.compile(r"[0-9]*\.[0-9]*", re.ASCII)
_NEEDED: Final = ("dbos", "fastapi", "python_multipart")
_SHORTEST_TOKEN: Final = 16

_SERVE: Final = f"""Run an engine until Ctrl-C or SIGTERM.

Everything is kept in the data folder, which one engine at a time can use. The API wants a
token: what {TOKEN} says, or else one that is made at the first start and kept in the data
folder, where the commands of the same user find it.

\b
  fnship engine serve
  fnship engine serve --data ./data --port 8701
  fnship functions put hello --url http://127.0.0.1:5000
"""


_MAKE: Final = """Make a token, and show it: it is never shown again.

\b
  fnship engine token --role invoke --expires 30d --name deployer
"""


@click.group("engine", short_help="Run an engine, and make tokens for it.")
def command() -> None:
    """Run an engine, and make tokens for it."""


@command.command("serve", help=_SERVE, short_help="Run an engine.")
@click.option(
    "--data",
    "--data-folder",
    "data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The engine's data folder.  [default: FNSHIP_DATA, else ~/.local/share/fnship]",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to bind."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to bind; 0 for any free one.",
)
@click.option(
    "--functions-address",
    metavar="HOST:PORT",
    help="Listen there too, for what functions send alone; for functions in containers.",
)
@click.option(
    "--advertise-url",
    metavar="URL",
    help="Where functions reach the engine.  [default: where it listens]",
)
@click.option(
    "--containers",
    type=click.Choice(["docker", "podman"]),
    help="What to run images with.  [default: what is there]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="HOST|NETWORK",
    help="Functions may be there although they are refused by default; repeat.",
)
@click.option(
    "--grace",
    default="8s",
    show_default=True,
    metavar="DURATION",
    help="What attempts in flight get at the end.",
)
@click.option(
    "--keep",
    default="30d",
    show_default=True,
    metavar="DURATION",
    help="How long an activity is kept after its end.",
)
@click.option(
    "--keep-logs", default="14d", show_default=True, metavar="DURATION", help="How long its log is."
)
@click.option(
    "--max-logs",
    type=click.IntRange(1),
    default=2 * 2**30,
    show_default=True,
    metavar="BYTES",
    help="What all logs together may take; beyond it, the oldest go.",
)
@click.option(
    "--max-payload",
    type=click.IntRange(2, 64 * 2**20),
    default=10 * 2**20,
    show_default=True,
    metavar="BYTES",
    help="The largest payload of an activity.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="COUNT",
    help="Attempts at once, over all functions.",
)
@click.option(
    "--max-value",
    type=click.IntRange(1),
    default=256 * 2**10,
    show_default=True,
    metavar="BYTES",
    help="The largest value in the state store.",
)
@click.option(
    "--max-keys",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    metavar="COUNT",
    help="Keys that one scope of it may hold.",
)
def serve(
    data: Path | None,
    host: str,
    port: int,
    functions_address: str | None,
    advertise_url: str | None,
    containers: str | None,
    allow: tuple[str, ...],
    grace: str,
    keep: str,
    keep_logs: str,
    max_logs: int,
    max_payload: int,
    concurrency: int,
    max_value: int,
    max_keys: int,
) -> None:
    """Run an engine."""
    check_extra()
    from contextlib import ExitStack

    from fnship.cli.arguments import read_url
    from fnship.engine.options import EngineOptions
    from fnship.engine.server import local_url, open_listener, run_engine
    from fnship.server.sockets import address

    token = _token()
    seconds = read_span("--grace", grace, least=0.0)
    keep_activities, kept_logs = read_span("--keep", keep), read_span("--keep-logs", keep_logs)
    with ExitStack() as stack:
        listener = stack.enter_context(open_listener(host, port))
        second = None
        if functions_address is not None:
            option = "--functions-address"
            second = stack.enter_context(
                open_listener(
                    *_host_and_port(functions_address), host_option=option, port_option=option
                )
            )
        listeners = [each for each in (listener, second) if each is not None]
        options = EngineOptions(
            data=data or default_data(),
            advertise_url=read_url(advertise_url or local_url(listeners[-1])).rstrip("/"),
            containers=containers,
            own_addresses=tuple(address(each).removeprefix("http://") for each in listeners),
            allow=allow,
            concurrency=concurrency,
            max_payload=max_payload,
            keep_log_bytes=max_logs,
            max_value=max_value,
            max_keys=max_keys,
            grace=seconds,
            keep_activities=keep_activities,
            keep_logs=kept_logs,
        )

        def announce(engine: Engine) -> None:
            note(f"fnship: the engine listens on {address(listener)}")
            if second is not None:
                note(f"fnship: for functions alone, on {address(second)}")
            note(f"fnship: its data is in {engine.folder.path}")
            where = f"in {TOKEN}" if token else f"in {engine.folder.token_file}"
            note(f"fnship: the token for its API is {where}")

        try:
            run_engine(
                options,
                listener,
                token=token,
                for_functions=second,
                bridge=second is None and advertise_url is None,
                started=announce,
                say=_say,
            )
        except EngineError as exc:
            raise UsageError(str(exc)) from exc


@command.command("token", help=_MAKE, short_help="Make a token, and show it.")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="What it allows: to look; to run activities as well; everything.",
)
@click.option("--expires", metavar="DURATION", help="For how long it is good.  [default: for ever]")
@click.option("--name", default="", metavar="TEXT", help="What it is for.")
@engine_options
@json_option
def token(
    role: str,
    expires: str | None,
    name: str,
    engine: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Make a token, and show it: it is never shown again."""
    body: dict[str, Any] = {"role": role, "name": name}
    if expires is not None:
        body["expires_in"] = read_span("--expires", expires)
    with Client.find(engine, data) as client:
        reply = client.call("POST", path("tokens"), body=body)
    if as_json:
        show_json(reply)
    else:
        made = reply.fields("id", "token", "expires")
        click.echo(made["token"])
        until = f" until {made['expires']}" if made["expires"] else ""
        note(f"fnship: token {made['id']} has the role {role}{until}")


@command.command("tokens")
@engine_options
@json_option
def tokens(engine: str | None, data: Path | None, as_json: bool) -> None:
    """List the tokens that were made, but not themselves."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", path("tokens"))
    if as_json:
        show_json(reply)
        return
    head = ("id", "role", "name", "created", "expires")
    show_table(head, [tuple(each[name] for name in head) for each in reply.items(*head)])


@command.command("revoke")
@click.argument("token_id", metavar="ID")
@engine_options
@json_option
def revoke(token_id: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Refuse a token from now on."""
    with Client.find(engine, data) as client:
        client.call("DELETE", path("tokens", token_id))
    if as_json:
        show_deleted(token_id)


@command.command("callback-key")
@engine_options
@json_option
def callback_key(engine: str | None, data: Path | None, as_json: bool) -> None:
    """Show the key that callbacks are signed with, for those who receive them."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", path("callbacks", "key"))
    if as_json:
        show_json(reply)
    else:
        click.echo(reply.fields("key")["key"])


def check_extra() -> None:
    """See that what the engine needs is installed.

    Raises:
        UsageError: It is not; says what to install.
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the engine needs {', '.join(missing)}, which is not installed: "
            "pip install 'fnship[engine]'"
        )


def read_span(option: str, given: str, *, least: float = 1e-3) -> float:
    """The seconds of a duration such as ``90s``, ``1m30s``, ``30d``, ``90`` or ``0.5``.

    Args:
        option: Whose value it is, for messages.
        given: The value.
        least: The least that it may be.

    Raises:
        UsageError: It is none.
    """
    try:
        days = _DAYS.fullmatch(given)
        text = f"{given}s" if _FRACTION.fullmatch(given) else given
        seconds = int(days[1]) * 86400.0 if days else parse_duration(text)
    except ValueError:
        seconds = -1.0
    if seconds < least:
        raise UsageError(
            f"{option} {given!r} is no duration: write one such as 90s, 1m30s, 12h or 30d"
        )
    return seconds


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if not token:
        return None
    if len(token) < _SHORTEST_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError(
            f"{TOKEN} is no token: expected {_SHORTEST_TOKEN} visible ASCII characters or more. "
            "Make one with: openssl rand -hex 32"
        )
    return token


def _host_and_port(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
        raise UsageError(f"--functions-address {given!r} is no address such as 172.17.0.1:8701")
    return host.strip("[]"), int(port)


def _say(sentence: str) -> None:
    note(f"fnship: {sentence}")
