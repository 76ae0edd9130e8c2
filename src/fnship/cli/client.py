"""The engine as the commands reach it: its URL, its token, its answers and its complaints."""

from __future__ import annotations

import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

import click
import msgspec

from fnship.cli.arguments import read_url
from fnship.cli.output import Unreachable, json_text, show
from fnship.errors import UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = [
    "DEFAULT_PORT",
    "DEV_DATA",
    "ENGINE_DATA",
    "ENGINE_URL",
    "TOKEN",
    "Client",
    "Event",
    "Reply",
    "default_data",
    "engine_options",
    "json_option",
    "path",
    "show_deleted",
    "show_json",
    "show_table",
]

DEFAULT_PORT: Final = 8700
"""Where an engine listens unless told otherwise."""

DEV_DATA: Final = ".fnship"
"""The data folder of ``fnship dev``, in the function's folder."""

TOKEN: Final = "FNSHIP_TOKEN"  # noqa: S105 - the variable's name, not a token
"""The variable with the token for an engine's API."""

_ENGINE: Final = "FNSHIP_ENGINE"  # the variable with an engine's URL
_DATA: Final = "FNSHIP_DATA"  # the variable with its data folder
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_CONNECT_TIMEOUT: Final = 10.0
_READ_TIMEOUT: Final = 60.0  # also between two pieces of a stream, which has heartbeats
_SHOWN: Final = 200  # bytes of an answer that is not an engine's
_NOT_VISIBLE: Final = re.compile(r"[^\x21-\x7e]")
_NO_ENGINE: Final = "the answer is no engine's ({}): is an engine there?"

F = TypeVar("F", bound=Callable[..., Any])

ENGINE_URL: Final[dict[str, Any]] = {
    "metavar": "URL",
    "help": "Where the engine is.  [default: FNSHIP_ENGINE, else what runs on the data folder]",
}
"""What ``--engine`` is."""

ENGINE_DATA: Final[dict[str, Any]] = {
    "type": click.Path(path_type=Path),
    "metavar": "DIR",
    "help": "The engine's data folder.  [default: FNSHIP_DATA, else the .fnship here or above that "
    "an engine runs on, else ~/.local/share/fnship]",
}
"""What ``--data-folder`` is, by which commands find an engine."""


def default_data() -> Path:
    """The data folder, unless ``--data`` names one: ``FNSHIP_DATA``, else the user's own."""
    if given := os.environ.get(_DATA):
        return Path(given)
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "fnship"


def json_option(function: F) -> F:
    """Give a command ``--json``; its parameter is `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")(function)


def engine_options(function: F) -> F:
    """Give a command ``--engine`` and ``--data``, its parameters for `Client.find`.

    It is ``--data-folder`` as well, which is its only name where ``--data`` is a payload.
    """
    data = click.option("--data", "--data-folder", "data", **ENGINE_DATA)
    return click.option("--engine", **ENGINE_URL)(data(function))


@dataclass(frozen=True, slots=True)
class Reply:
    """What the engine answered.

    Attributes:
        status: The HTTP status, 200 to 299.
        headers: The headers, without regard to case.
        body: The body's bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as a value.

        Raises:
            Unreachable: It is no JSON, so no engine has said it.
        """
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as exc:
            raise Unreachable(_NO_ENGINE.format(f"it is no JSON, {exc}")) from exc

    def fields(self, *names: str) -> dict[str, Any]:
        """The body as an object that has these fields, and others.

        Raises:
            Unreachable: It is none, so no engine has said it.
        """
        return _with_fields(self.json(), names)

    def items(self, *names: str) -> list[dict[str, Any]]:
        """The items of the list that the body is, each of which has these fields, and others.

        Raises:
            Unreachable: It is none, so no engine has said it.
        """
        items = self.fields("items")["items"]
        if not isinstance(items, list):
            raise Unreachable(_NO_ENGINE.format("its items are no list"))
        return [_with_fields(each, names) for each in items]


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event.

    Attributes:
        name: Its kind; ``message`` where the engine named none.
        data: Its text.
        id: Where it stands in the stream; empty for nowhere.
    """

    name: str
    data: str
    id: str


class Client:
    """Calls an engine's API. A context manager; one thread at a time.

    Args:
        url: Where the engine is.
        token: The token for its API; None for none.
        missing: Where the token is from, or what to do for one; said where it is refused.
    """

    def __init__(self, url: str, token: str | None, missing: str = f"Set {TOKEN}") -> None:
        import urllib3

        self.url = read_url(url).rstrip("/")
        self._missing = missing
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(retries=False)

    @classmethod
    def find(cls, engine: str | None, data: Path | None) -> Client:
        """The client for what the options and the environment say.

        The token that an engine keeps in its data folder is only ever sent to this machine.

        Args:
            engine: ``--engine``.
            data: ``--data``.

        Raises:
            UsageError: The URL or the token cannot be used.
            Unreachable: No engine runs on the data folder that was named.
        """
        folder = data or _running_here() or default_data()
        engine = engine or os.environ.get(_ENGINE) or _line(folder / "url")
        if engine is None and data is not None:
            raise Unreachable(_no_engine_on(folder))
        url = read_url(engine or f"http://127.0.0.1:{DEFAULT_PORT}")
        token = os.environ.get(TOKEN)
        if token and _NOT_VISIBLE.search(token):
            raise UsageError(f"{TOKEN} has a character in it that no token has")
        missing = f"It is what {TOKEN} says, which goes before what a data folder keeps"
        if not token and urllib.parse.urlsplit(url).hostname in _LOOPBACK:
            token = _line(folder / "token")
            missing = f"It is the one in {folder / 'token'}"
        if not token:
            missing = f"Set {TOKEN}, or name the engine's data folder with --data-folder"
        return cls(url, token, missing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def call(
        self,
        method: str,
        where: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> Reply:
        """Call, and take the whole answer.

        Args:
            method: The HTTP method.
            where: A path, from `path`.
            query: The query; what is None is left out.
            body: Bytes of JSON as they are, or a value to be encoded; None for none.
            headers: Further headers.
            patience: Seconds that the engine may take longer than usual.

        Raises:
            UsageError: The engine refuses it; says why.
            Unreachable: No engine was there, or it could not do it.
        """
        with self._open(method, where, query, body, headers, patience) as response:
            return Reply(response.status, response.headers, response.data)

    def text(self, where: str, **query: object) -> Iterator[str]:
        """A text, piece by piece. Raises as `call` does."""
        import codecs

        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with self._open("GET", where, query) as response:
            for piece in response.stream(2**16):
                yield decode(piece)
            yield decode(b"", True)

    def events(self, where: str, after: str = "", **query: object) -> Iterator[Event]:
        """A stream of server-sent events, until the engine ends it. Raises as `call` does.

        Args:
            where: A path, from `path`.
            after: The id of the last event seen; empty for none.
            **query: The query.
        """
        headers = {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = after
        with self._open("GET", where, query, headers=headers) as response:
            name, last = "", ""
            data: list[str] = []
            for line in _lines(response):
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        yield Event(name or "message", "\n".join(data), last)
                    name, data = "", []
                elif field == "data":
                    data.append(value)
                elif field == "event":
                    name = value
                elif field == "id":
                    last = value

    @contextmanager
    def _open(
        self,
        method: str,
        where: str,
        query: Mapping[str, object] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> Iterator[BaseHTTPResponse]:
        import urllib3

        given = {name: _word(value) for name, value in (query or {}).items() if value is not None}
        url = f"{self.url}{where}{f'?{urllib.parse.urlencode(given)}' if given else ''}"
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
            body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        timeout = urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=_READ_TIMEOUT + patience)
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers=sent,
                redirect=False,
                timeout=timeout,
                preload_content=False,
            )
            try:
                if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    self._complain(response.status, response.data)
                yield response
            finally:
                response.close()
        except urllib3.exceptions.NewConnectionError as exc:
            raise Unreachable(
                f"no engine answers at {self.url}. Start one with: fnship engine serve"
            ) from exc
        except urllib3.exceptions.TimeoutError as exc:
            raise Unreachable(f"the engine at {self.url} does not answer in time") from exc
        except urllib3.exceptions.HTTPError as exc:
            raise Unreachable(f"the engine at {self.url} broke off: {exc}") from exc

    def _complain(self, status: int, body: bytes) -> NoReturn:
        try:
            said = msgspec.json.decode(body, type=dict[str, Any])
            detail = said.get("detail") or said["title"]
        except (msgspec.MsgspecError, KeyError):
            shown = body[:_SHOWN].decode(errors="replace").strip()
            raise Unreachable(
                f"{self.url} answered {status}{f': {shown}' if shown else ''}. Is an engine there?"
            ) from None
        if status == HTTPStatus.UNAUTHORIZED:
            raise UsageError(f"the engine at {self.url} refuses: {detail}. {self._missing}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unreachable(f"the engine at {self.url} could not do it: {detail}")
        raise UsageError(str(detail))


def _running_here() -> Path | None:
    """The data folder of an engine that runs in this folder, or in one above it.

    Only one of this user's own: what it says decides where calls are sent.
    """
    if os.environ.get(_DATA):
        return None
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return None
    for each in (here, *here.parents):
        with suppress(OSError):
            if (each / DEV_DATA / "url").stat().st_uid == os.getuid():
                return each / DEV_DATA
    return None


def _no_engine_on(folder: Path) -> str:
    inside = folder / DEV_DATA
    if (inside / "url").exists():
        return f"no engine runs on the data folder {folder}, but one does on {inside}: name that"
    return (
        f"no engine runs on the data folder {folder}. Start one with: fnship engine serve "
        f"--data {folder}"
    )


def path(*parts: str) -> str:
    """A path of the API: `parts` below ``/v1``, whatever characters are in them."""
    return "/".join(["/v1", *(urllib.parse.quote(part, safe="") for part in parts)])


def show_json(reply: Reply) -> None:
    """Write an answer to stdout as JSON, with every number as the engine wrote it."""
    try:
        text = msgspec.json.format(reply.body, indent=2)
    except msgspec.DecodeError as exc:
        raise Unreachable(_NO_ENGINE.format(f"it is no JSON, {exc}")) from exc
    show(text.decode(errors="replace"))


def show_deleted(what: str) -> None:
    """Write to stdout, as JSON, what there is no more."""
    show(json_text({"deleted": what}))


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table to stdout: columns as wide as they must be, the last as wide as it is."""
    lines = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = "".join(each if each.isprintable() else " " for each in str(value))
    encoding = sys.stdout.encoding or "ascii"
    return " ".join(text.split()).encode(encoding, "backslashreplace").decode(encoding)


def _with_fields(value: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreachable(_NO_ENGINE.format("there is no object where one should be"))
    missing = [name for name in names if name not in value]
    if missing:
        raise Unreachable(_NO_ENGINE.format(f"it has no {', '.join(missing)}"))
    return value


def _line(file: Path) -> str | None:
    """The one line of a small file; None where it cannot be read."""
    try:
        return file.read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(response: BaseHTTPResponse) -> Iterator[str]:
    """The lines of a stream, as soon as each is whole."""
    rest = b""
    for piece in response.stream(2**16):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")
