"""``fnship logs``: shows the log of an activity, follows it, or searches them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from fnship.cli.client import Client, engine_options, json_option, path
from fnship.cli.output import Unreachable, note, show
from fnship.errors import UsageError

__all__ = ["command"]

_HELP: Final = """Show what activities have logged.

\b
  fnship logs ID                      one activity, all its attempts
  fnship logs ID --follow             as it comes, until the activity has ended
  fnship logs --grep timeout          lines of all activities, the newest first
  fnship logs --level error --limit 20
"""

_PAGE: Final = 1000  # lines that the engine is asked for at once, its limit
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@click.command("logs", help=_HELP, short_help="Show, follow or search what activities logged.")
@click.argument("activity_id", required=False, metavar="[ID]")
@click.option("--follow", "-f", is_flag=True, help="Go on until the activity has ended.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Only what this one logged.")
@click.option("--grep", metavar="TEXT", help="Only lines with this text, in any letters.")
@click.option(
    "--level", type=click.Choice(_LEVELS, case_sensitive=False), help="Only lines from this one up."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="COUNT",
    help="How many lines a search gives at most.",
)
@engine_options
@json_option
def command(
    activity_id: str | None,
    follow: bool,
    attempt: int | None,
    grep: str | None,
    level: str | None,
    limit: int,
    engine: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Show, follow or search."""
    searching = grep is not None or level is not None or activity_id is None
    if searching and (follow or attempt is not None):
        raise UsageError("--follow and --attempt are for one activity, without --grep and --level")
    if follow and attempt is not None:
        raise UsageError("--follow gives all attempts as they come; leave --attempt out")
    with Client.find(engine, data) as client:
        if searching:
            query = {"text": grep, "level": level, "activity_id": activity_id}
            _search(client, query, limit, as_json)
            return
        assert activity_id is not None
        where = path("activities", activity_id, "logs")
        if follow:
            _follow(client, where, activity_id, as_json)
            return
        rest = ""
        for part in client.text(where, attempt=attempt):
            *lines, rest = (rest + part).split("\n")
            for line in lines:
                _show(line, activity_id, as_json)


def _search(client: Client, query: dict[str, str | None], limit: int, as_json: bool) -> None:
    """Show what is found, page by page, and say whether there is more."""
    named = query["activity_id"] is None
    cursor = None
    left = limit
    while left > 0:
        asked = {**query, "limit": min(left, _PAGE), "cursor": cursor}
        reply = client.call("GET", path("logs"), query=asked)
        found = reply.items("line", "activity_id")
        for each in found[:left]:
            _show(each["line"], each["activity_id"], as_json, named=named)
        cursor = reply.fields("cursor")["cursor"]
        left -= len(found)
        if cursor is None and left >= 0:
            return
    note(f"fnship: there may be more than these {limit} lines: give a higher --limit")


def _follow(client: Client, where: str, activity_id: str, as_json: bool) -> None:
    """Show a log as it comes.

    Raises:
        Unreachable: It ends before the activity does.
    """
    for event in client.events(where, follow=True):
        if event.name == "end":
            return
        for line in event.data.split("\n"):
            _show(line, activity_id, as_json)
    raise Unreachable(
        f"the engine stopped before {activity_id} has ended. Follow it again when the engine runs"
    )


def _show(line: str, activity_id: str, as_json: bool, *, named: bool = False) -> None:
    if as_json:
        show(json.dumps({"activity_id": activity_id, "line": line}))
    else:
        show(f"{activity_id} {line}" if named else line)
