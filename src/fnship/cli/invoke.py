"""``fnship invoke``: calls a function as an engine does, and shows what came of it."""

from __future__ import annotations

import re
import signal
import sys
import urllib.parse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from fnship import contract
from fnship.cli.arguments import check_duration, check_value, read_data, read_header, read_url
from fnship.cli.output import VERDICT, Unreachable, json_text, note, note_frames, readable
from fnship.errors import UsageError

if TYPE_CHECKING:
    from fnship.cli.call import Answer, Reply
    from fnship.testing import Engine

__all__ = ["command"]

_DEFAULT_PORT: Final = 5000
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HOST_AND_PORT: Final = re.compile(r"[\w.-]+:[0-9]+(/|$)")  # http:// was forgotten
_SIGNALLED: Final = 128  # plus the signal, as shells have it
_HIGHEST: Final = 255  # of what a process can end with
_EVENTS: Final = ("deploy", "destroy", "force-destroy")
_VERDICTS: Final = {
    contract.EXECUTE_AGAIN: "execute again",
    contract.FAILED: "failed",
    contract.TRANSIENT: "transient",
    contract.NOT_FOUND: "not found",
    contract.CONFLICT: "conflict",
}
_HEADERS: Final = {
    "organization_id": contract.ORGANIZATION_ID,
    "project_id": contract.PROJECT_ID,
    "environment_id": contract.ENVIRONMENT_ID,
    "environment_name": contract.ENVIRONMENT_NAME,
    "event_type": contract.EVENT_TYPE,
    "event_source": contract.EVENT_SOURCE,
    "event_source_name": contract.EVENT_SOURCE_NAME,
    "activity_id": contract.ACTIVITY_ID,
    "timeout": contract.TIMEOUT,
}
"""Option → the header of a plain call."""
_ENGINE_DEFAULTS: Final = {
    "organization_id": "default",
    "project_id": "default",
    "environment_id": "default",
    "environment_name": "default",
}


_HELP: Final = """Call a function, and show its answer, its log lines and its time.

With a URL, the function there. With DIR, the function in that folder, started for this
one call. With neither, what runs on http://127.0.0.1:5000, or else the current folder.

The answer goes to stdout, everything else to stderr. The call is an engine's: this
command takes the log lines and keeps state in memory, until the call is over. With
--no-logs it is a plain call, for a function that cannot call back.

\b
  fnship invoke --data '{"name": "Ada"}' --project p1
  fnship invoke hello --data @request.json --event deploy
  fnship invoke https://functions.example.com/hello --no-logs -H 'X-Key: 1'

\b
Exit status:
  0   the function answered
  2   a mistake in the command, or in the function's folder
  3   no function was reached
  11  execute again    12  failed    13  transient    14  not found    15  conflict
"""


@click.command(
    "invoke",
    help=_HELP,
    short_help="Call a function, and show its answer, its log lines and its time.",
)
@click.argument("where", metavar="[DIR|URL]", required=False)
@click.option("--url", metavar="URL", help="Call the function there: the same as URL alone.")
@click.option(
    "--data",
    default="{}",
    metavar="JSON|@FILE|-",
    help="The request, a JSON object; - reads stdin.  [default: {}]",
)
@click.option("--project", "project_id", metavar="ID", help="The metadata's project.")
@click.option("--environment", "environment_id", metavar="ID", help="Its environment.")
@click.option("--environment-name", metavar="NAME", help="The name of that.")
@click.option("--organization", "organization_id", metavar="ID", help="Its organization.")
@click.option("--event", "event_type", type=click.Choice(_EVENTS), help="Its event type.")
@click.option("--event-source", metavar="KIND", help="Its event source, such as action.")
@click.option("--event-source-name", metavar="NAME", help="The name of that.")
@click.option("--activity-id", metavar="ID", help="Its activity.  [default: a new one]")
@click.option("--timeout", metavar="DURATION", help="How long it may take, such as 90s or 1m30s.")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Any header; repeat."
)
@click.option("--no-logs", is_flag=True, help="A plain call: no metadata but what is given here.")
@click.option("--json", "as_json", is_flag=True, help="Everything in one JSON object on stdout.")
def command(
    where: str | None,
    url: str | None,
    data: str,
    headers: tuple[str, ...],
    no_logs: bool,
    as_json: bool,
    **metadata: str | None,
) -> int:
    """Call once."""
    from fnship.cli.call import read_answer, send
    from fnship.testing import Engine

    given = {name: value for name, value in metadata.items() if value is not None}
    for name, value in given.items():
        check_value(_HEADERS[name], value)
    if "timeout" in given:
        check_duration("--timeout", given["timeout"])
    body = read_data(data)
    extra = [read_header(each) for each in headers]
    place = _choose(where, url)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        engine = None if no_logs else stack.enter_context(Engine())
        call_headers = _headers(engine, given)
        activity_id = call_headers.get(contract.ACTIVITY_ID, "")
        for name, value in extra:
            _replace(call_headers, name, value)
        if engine is not None and not as_json:
            engine.on_line = _show_line
        reached = _reach(place, stack, calls_back=engine is not None)
        reply = send(reached, body, call_headers)
    # A function that was started for this has stopped by now, and all of its lines are here.
    answer = read_answer(reached, reply)
    if as_json:
        lines = [] if engine is None else engine.lines(activity_id)
        _show_json(reply, answer, lines)
    else:
        _show(reply, answer, with_trace=engine is None)
    return min(VERDICT + answer.error_code, _HIGHEST) if answer.error_code else 0


def _choose(where: str | None, url: str | None) -> str | Path:
    """What to call: a URL, or a folder.

    Raises:
        UsageError: Two things are named, or something that is no URL.
        Unreachable: Nothing is named, nothing runs, and the current folder has no function.
    """
    if where is not None and url is not None:
        raise UsageError(f"both {where} and --url {url}: name one thing to call")
    if where is not None and "://" not in where and not _HOST_AND_PORT.match(where):
        return Path(where)
    named = where if url is None else url
    return read_url(named) if named is not None else _whatever_runs()


def _whatever_runs() -> str | Path:
    from fnship.cli.call import is_function
    from fnship.cli.run import check_folder
    from fnship.settings import Settings

    settings = Settings.from_env()
    url = f"http://127.0.0.1:{settings.port or _DEFAULT_PORT}"
    if is_function(url):
        return url
    try:
        check_folder(Path(), settings.target)
    except UsageError as exc:
        raise Unreachable(f"no function runs on {url}, and {exc}") from exc
    note(f"fnship: no function runs on {url}: starting the one in this folder for the call")
    return Path()


def _headers(engine: Engine | None, given: Mapping[str, str]) -> dict[str, str]:
    if engine is None:
        return {_HEADERS[name]: value for name, value in given.items()}
    arguments: dict[str, Any] = {**_ENGINE_DEFAULTS, **given}
    return engine.headers(**arguments)


def _replace(headers: dict[str, str], name: str, value: str) -> None:
    """Set a header, in whatever case it is there already."""
    for known in [each for each in headers if each.lower() == name.lower()]:
        del headers[known]
    headers[name] = value


def _reach(place: str | Path, stack: ExitStack, *, calls_back: bool) -> str:
    """The URL to call. A folder's function is started, and stopped with `stack`."""
    if isinstance(place, Path):
        from fnship.cli.serving import serve_folder

        return stack.enter_context(serve_folder(place))
    host = urllib.parse.urlsplit(place).hostname
    if calls_back and host not in _LOOPBACK:
        note(
            f"fnship: {host} cannot send its log lines to this machine's loopback address, "
            "nor use state; --no-logs makes a plain call"
        )
    return place


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Take a signal: end as on an error, so that what was started is stopped."""
    raise SystemExit(_SIGNALLED + number)


def _show_line(_activity_id: str, line: str) -> None:
    shown = readable(line)
    note("\n".join(f"  | {each}" for each in shown.splitlines() or [""]))


def _show(reply: Reply, answer: Answer, *, with_trace: bool) -> None:
    if not answer.error_code:
        click.echo(json_text(answer.value, indent=2))
        sys.stdout.flush()
    else:
        _show_error(answer, with_trace=with_trace)
    note(f"fnship: {reply.status} in {_duration(reply.seconds)}")


def _show_error(answer: Answer, *, with_trace: bool) -> None:
    error: dict[str, Any] = answer.value
    if with_trace:
        note_frames(error.get("stack_trace"))
    verdict = _VERDICTS.get(answer.error_code, "its own")
    note(f"fnship: error {answer.error_code}, {verdict}: {error.get('message', '')}")
    if error.get("data"):
        note(f"fnship: its data: {json_text(error['data'])}")


def _show_json(reply: Reply, answer: Answer, lines: list[str]) -> None:
    whole = {
        "status": reply.status,
        "answer": answer.value,
        "lines": lines,
        "seconds": round(reply.seconds, 6),
    }
    click.echo(json_text(whole))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
