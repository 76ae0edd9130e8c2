"""``fnship activities``: invokes functions through the engine, and looks after what came of it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from fnship import contract
from fnship.cli.arguments import check_value, read_data, read_url
from fnship.cli.client import (
    ENGINE_DATA,
    ENGINE_URL,
    Client,
    Reply,
    engine_options,
    json_option,
    path,
    show_json,
    show_table,
)
from fnship.cli.engine import read_span
from fnship.cli.output import VERDICT, json_text, note, note_frames
from fnship.errors import UsageError

__all__ = ["command"]

_STATUSES: Final = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
_ENDED: Final = ("succeeded", "failed", "cancelled")
_NOT_YET: Final = 1  # exit status
_HIGHEST: Final = 255  # of what a process can end with
_HEAD: Final = ("id", "function", "status", "attempts", "created", "ended", "error")
_HEADERS: Final = {
    "activity_id": contract.ACTIVITY_ID,
    "key": "Idempotency-Key",
    "callback": contract.CALLBACK_URL,
    "organization_id": contract.ORGANIZATION_ID,
    "project_id": contract.PROJECT_ID,
    "environment_id": contract.ENVIRONMENT_ID,
    "environment_name": contract.ENVIRONMENT_NAME,
    "event_type": contract.EVENT_TYPE,
    "event_source": contract.EVENT_SOURCE,
    "event_source_name": contract.EVENT_SOURCE_NAME,
}
"""Parameter of ``invoke`` → header."""

_HELP: Final = """Invoke functions through the engine, and look after what came of it.

\b
  fnship activities invoke hello --data '{"name": "Ada"}' --wait 10s
  fnship activities list --status failed
  fnship activities replay --dead
"""

_INVOKE: Final = """Invoke a function through the engine.

Without --wait its id goes to stdout at once, with it the result does once it has ended.

\b
Exit status:
  0   it is accepted or, with --wait, has succeeded
  1   with --wait: it has not ended yet
  2   a mistake in the command, or the engine refuses it
  3   no engine was reached, or it could not do it
  10 + N   it has failed with error code N; 12 where it was cancelled
"""

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    "activities", help=_HELP, short_help="Invoke functions through the engine, and look after that."
)
def command() -> None:
    """Invoke functions through the engine, and look after what came of it."""


def _filters(function: F) -> F:
    """Give a command what chooses activities; its parameters are the API's filters."""
    for option in (
        click.option("--before", "created_before", metavar="TIME", help="Accepted before."),
        click.option("--after", "created_after", metavar="TIME", help="Accepted then or later."),
        click.option("--environment", "environment_id", metavar="ID", help="Of that environment."),
        click.option("--project", "project_id", metavar="ID", help="Of that project."),
        click.option(
            "--organization", "organization_id", metavar="ID", help="Of that organization."
        ),
        click.option("--function", metavar="NAME", help="Of that function."),
    ):
        function = option(function)
    return function


def _paging(function: F) -> F:
    limit = click.option(
        "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many."
    )
    cursor = click.option("--cursor", metavar="TEXT", help="Those that follow an earlier list.")
    return limit(cursor(function))


@command.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="That have come this far.")
@_filters
@_paging
@engine_options
@json_option
def list_activities(
    status: str | None,
    limit: int,
    cursor: str | None,
    engine: str | None,
    data: Path | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List activities, the newest first."""
    query = {**filters, "status": status, "limit": limit, "cursor": cursor}
    with Client.find(engine, data) as client:
        _show_page(client.call("GET", path("activities"), query=query), as_json)


@command.command("dead")
@_filters
@_paging
@engine_options
@json_option
def dead(
    limit: int,
    cursor: str | None,
    engine: str | None,
    data: Path | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List dead letters: activities that have failed, and were not replayed since."""
    query = {**filters, "dead": True, "limit": limit, "cursor": cursor}
    with Client.find(engine, data) as client:
        _show_page(client.call("GET", path("activities"), query=query), as_json)


@command.command("get")
@click.argument("activity_id", metavar="ID")
@engine_options
@json_option
def get(activity_id: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Show one activity, with its payload and its result."""
    with Client.find(engine, data) as client:
        reply = client.call("GET", path("activities", activity_id))
    _show_one(reply, as_json)


@command.command("invoke", help=_INVOKE, short_help="Invoke a function through the engine.")
@click.argument("function", metavar="FUNCTION")
@click.option(
    "--data",
    "payload",
    default="{}",
    metavar="JSON|@FILE|-",
    help="The request, a JSON object; - reads stdin.  [default: {}]",
)
@click.option(
    "--wait", metavar="DURATION", help="Wait for its end, in whole seconds, an hour at most."
)
@click.option("--ephemeral", is_flag=True, help="Faster; it does not survive a crash.")
@click.option("--activity-id", metavar="ID", help="Its id.  [default: a new one]")
@click.option("--key", metavar="TEXT", help="Given again, it means the same activity.")
@click.option("--callback", metavar="URL", help="Where its outcome is sent.")
@click.option("--organization", "organization_id", metavar="ID", help="Whose it is.")
@click.option("--project", "project_id", metavar="ID", help="Its project.")
@click.option("--environment", "environment_id", metavar="ID", help="Its environment.")
@click.option("--environment-name", metavar="NAME", help="The name of that.")
@click.option("--event", "event_type", metavar="TYPE", help="Its event type, such as deploy.")
@click.option("--event-source", metavar="KIND", help="Its event source, such as action.")
@click.option("--event-source-name", metavar="NAME", help="The name of that.")
@click.option("--engine", **ENGINE_URL)
@click.option("--data-folder", **ENGINE_DATA)
@json_option
def invoke(
    function: str,
    payload: str,
    wait: str | None,
    ephemeral: bool,
    engine: str | None,
    data_folder: Path | None,
    as_json: bool,
    **given: str | None,
) -> int:
    """Invoke a function through the engine."""
    headers = {_HEADERS[name]: value for name, value in given.items() if value is not None}
    for name, value in headers.items():
        check_value(name, value)
    if given["callback"] is not None:
        read_url(given["callback"])
    seconds = math.ceil(read_span("--wait", wait)) if wait is not None else 0
    prefer = [f"wait={seconds}"] if seconds else []
    prefer += ["durability=ephemeral"] if ephemeral else []
    if prefer:
        headers["Prefer"] = ", ".join(prefer)
    if seconds and not ephemeral and not given["key"]:
        # So that its id is known to somebody who no longer wants to wait.
        headers.setdefault(contract.ACTIVITY_ID, uuid.uuid4().hex)
    body = read_data(payload)
    with Client.find(engine, data_folder) as client:
        try:
            reply = client.call(
                "POST",
                path("functions", function, "invocations"),
                body=body,
                headers=headers,
                patience=seconds,
            )
        except KeyboardInterrupt:
            if contract.ACTIVITY_ID in headers:
                note(f"fnship: activity {headers[contract.ACTIVITY_ID]} goes on, if it has begun")
            raise
        status = _show_invoked(reply, waited=bool(seconds), as_json=as_json)
        if status == _NOT_YET and not as_json:
            _show_why(client, reply.fields("id")["id"])
    return status


@command.command("cancel")
@click.argument("activity_id", metavar="ID")
@engine_options
@json_option
def cancel(activity_id: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Cancel an activity. An attempt in flight is cut off, which its function notices."""
    with Client.find(engine, data) as client:
        reply = client.call("POST", path("activities", activity_id, "cancel"))
    if as_json:
        show_json(reply)
    else:
        note(f"fnship: {activity_id} is cancelled")


@command.command("callback")
@click.argument("activity_id", metavar="ID")
@engine_options
@json_option
def callback(activity_id: str, engine: str | None, data: Path | None, as_json: bool) -> None:
    """Send the callback of an activity that has ended once more, until it is heard."""
    with Client.find(engine, data) as client:
        reply = client.call("POST", path("activities", activity_id, "callback"))
    if as_json:
        show_json(reply)
    else:
        note(f"fnship: the callback of {activity_id} is sent once more")


@command.command("replay")
@click.argument("activity_id", metavar="[ID]", required=False)
@click.option("--dead", "all_dead", is_flag=True, help="All dead letters that the filters choose.")
@_filters
@engine_options
@json_option
def replay(
    activity_id: str | None,
    all_dead: bool,
    engine: str | None,
    data: Path | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Run an activity that has ended once more, as a new one; with --dead all dead letters."""
    chosen = {name: value for name, value in filters.items() if value is not None}
    if (activity_id is None) != all_dead:
        raise UsageError("give either the ID of an activity or --dead")
    if activity_id is not None and chosen:
        raise UsageError("an ID leaves nothing to choose: leave the filters out")
    with Client.find(engine, data) as client:
        if activity_id is None:
            reply = client.call("POST", path("activities", "replay"), body=chosen)
        else:
            reply = client.call("POST", path("activities", activity_id, "replay"))
    if as_json:
        show_json(reply)
    elif activity_id is None:
        count = reply.fields("replayed")["replayed"]
        note(f"fnship: {count} activities are run once more")
    else:
        click.echo(reply.fields("id")["id"])


def _show_page(reply: Reply, as_json: bool) -> None:
    if as_json:
        show_json(reply)
        return
    show_table(_HEAD, [_row(each) for each in reply.items(*_HEAD)])
    cursor = reply.fields("cursor")["cursor"]
    if cursor is not None:
        note(f"fnship: there are more: --cursor {cursor}")


def _row(activity: dict[str, Any]) -> tuple[object, ...]:
    error = activity["error"]
    return (*(activity[name] for name in _HEAD[:-1]), error and error["message"])


def _show_one(reply: Reply, as_json: bool) -> None:
    if as_json:
        show_json(reply)
        return
    reply.fields("id", "status")
    raw = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
    rows = [(name, _shown(bytes(value))) for name, value in raw.items() if value != b"null"]
    show_table(("what", "value"), rows)


def _shown(value: bytes) -> str:
    """A string as it is, anything else as the JSON that the engine gave."""
    if value.startswith(b'"'):
        return str(msgspec.json.decode(value))
    return value.decode()


def _show_invoked(reply: Reply, *, waited: bool, as_json: bool) -> int:
    activity = reply.fields("id", "status")
    status = activity["status"]
    if as_json:
        show_json(reply)
    elif status == "succeeded":
        raw = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        show_json(Reply(reply.status, reply.headers, bytes(raw["result"])))
    elif status in _ENDED:
        error = activity["error"]
        note_frames(error["stack_trace"])
        note(f"fnship: {error['message']}")
        if error["data"] is not None:
            note(f"fnship: its data: {json_text(error['data'])}")
    else:
        click.echo(activity["id"])
    if not as_json and waited:
        note(f"fnship: activity {activity['id']} {_how_far(activity)}")
    if status not in _ENDED:
        return _NOT_YET if waited else 0
    if status == "succeeded":
        return 0
    code = activity["error"]["error_code"] or contract.FAILED
    return min(VERDICT + code, _HIGHEST)


def _show_why(client: Client, activity_id: str) -> None:
    """Say why an activity has not ended, as far as that is known."""
    activity = client.call("GET", path("activities", activity_id)).fields("error", "due")
    if activity["error"] is not None:
        note(f"fnship: its last attempt: {activity['error']['message']}")
    if activity["due"] is not None:
        note(f"fnship: its next attempt is due at {activity['due']}")


def _how_far(activity: dict[str, Any]) -> str:
    if activity["status"] not in _ENDED:
        return f"is {activity['status']} still"
    made = activity["attempts"]
    return f"has {activity['status']} after {made} attempt{'' if made == 1 else 's'}"
