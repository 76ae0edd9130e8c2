"""One SQLite database: one writer that commits for several at once, and readers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from fnship.engine.sql.queries import load_queries, migrations
from fnship.errors import StorageError, UsageError

__all__ = ["Database", "Row", "Session"]

T = TypeVar("T")
Row: TypeAlias = sqlite3.Row

_BUSY: Final = 30_000  # ms that one waits for a lock that another process holds
_TOGETHER: Final = 200  # pieces of work that share one commit at most
_READERS: Final = 4  # threads that read
_CLOSED: Final = "the database is closed"
_CACHE: Final = -2048  # KiB of pages that a connection keeps, negative as SQLite wants it


class Session:
    """Runs the named queries of one piece of work, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(
        self,
        file: str,
        name: str,
        values: Mapping[str, Any] | None = None,
        *,
        where: Sequence[str] = (),
    ) -> list[Row]:
        """Every row that a query gives.

        Args:
            file: The file of queries.
            name: The query.
            values: Its parameters.
            where: Conditions, all of which must hold: what ``{conditions}`` stands for in it.
                They come from the code and never from a request.
        """
        query = load_queries(file)[name]
        if "{conditions}" in query:
            query = query.replace("{conditions}", " AND ".join(where) or "1 = 1")
        return self._connection.execute(query, values or {}).fetchall()

    def one(self, file: str, name: str, values: Mapping[str, Any] | None = None) -> Row | None:
        """The first row that a query gives; None where there is none."""
        row: Row | None = self._run(file, name, values).fetchone()
        return row

    def do(self, file: str, name: str, values: Mapping[str, Any] | None = None) -> int:
        """Change something. Returns how many rows it changed."""
        return self._run(file, name, values).rowcount

    def _run(self, file: str, name: str, values: Mapping[str, Any] | None) -> sqlite3.Cursor:
        return self._connection.execute(load_queries(file)[name], values or {})


@dataclass(slots=True)
class _Work:
    """A piece of work for the writer, and who waits for it."""

    do: Callable[[Session], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if isinstance(self.error, StopIteration):  # which a future refuses
            self.future.set_exception(RuntimeError(f"the work raised {self.error!r}"))
        elif self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Database:
    """A SQLite file in WAL mode. Its methods may be called from any event loop.

    Every write is on the disk when its caller goes on. Writes that come while another is being
    committed are committed together, each in a savepoint of its own: one that fails leaves the
    others alone.

    Args:
        path: The file; made where it does not exist.

    Raises:
        UsageError: The file is of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False
        self._closing = threading.Lock()  # nothing is queued behind the end
        try:
            self._migrate()
            writer = self._connect()
        except sqlite3.Error as exc:
            raise UsageError(
                f"{path} cannot be opened as the engine's database: {exc}. Is the folder "
                "writable, and was the file made by fnship?"
            ) from exc
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(_READERS, "fnship-reader")
        self._writer = threading.Thread(
            target=self._write_all, args=(writer,), name="fnship-writer", daemon=True
        )
        self._writer.start()

    async def write(self, work: Callable[[Session], T]) -> T:
        """Do a piece of work that changes something. It is all on the disk then, or none of it.

        Args:
            work: Runs in the writer's thread and must not wait for anything.

        Raises:
            StorageError: It could not be stored; a full disk, for example.
        """
        loop = asyncio.get_running_loop()
        item = _Work(work, loop, loop.create_future())
        with self._closing:
            if self._closed:
                raise StorageError(_CLOSED)
            self._queue.put(item)
        result: T = await item.future
        return result

    async def read(self, work: Callable[[Session], T]) -> T:
        """Do a piece of work that only looks, beside the writer.

        Raises:
            StorageError: It could not be read.
        """
        loop = asyncio.get_running_loop()
        with self._closing:
            if self._closed:
                raise StorageError(_CLOSED)
            reading = loop.run_in_executor(self._readers, self._read, work)
        return await reading

    def close(self) -> None:
        """Finish what is queued, and close the file."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in self._open:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _set_up(connection: sqlite3.Connection) -> None:
        for pragma in (
            f"busy_timeout={_BUSY}",
            "journal_mode=WAL",
            "synchronous=FULL",  # what was accepted survives a loss of power too
            "foreign_keys=ON",
            f"cache_size={_CACHE}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def _migrate(self) -> None:
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            scripts = migrations()
            if version > len(scripts):
                raise UsageError(
                    f"{self.path} was written by a newer fnship: its version is {version}, and "
                    f"this one knows {len(scripts)}. Update fnship, or use another data folder"
                )
            for number in range(version, len(scripts)):
                for statement in _statements(scripts[number]):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={len(scripts)}")
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _read(self, work: Callable[[Session], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = self._connect()
                self._open.append(connection)
            connection.execute("BEGIN")
            try:
                return work(Session(connection))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as exc:
            raise _storage_error(self.path, exc) from exc

    def _write_all(self, connection: sqlite3.Connection) -> None:
        session = Session(connection)
        more = True
        while more:
            batch, more = self._next_batch()
            if batch:
                self._commit(connection, session, batch)
                for loop in {item.loop for item in batch}:
                    settled = [item for item in batch if item.loop is loop]
                    try:
                        loop.call_soon_threadsafe(_settle, settled)
                    except RuntimeError:
                        continue  # that loop is closed: nobody waits there any more
        connection.close()

    def _next_batch(self) -> tuple[list[_Work], bool]:
        """What to commit next, and whether there may be more after it."""
        item = self._queue.get()
        batch: list[_Work] = []
        while item is not None:
            batch.append(item)
            if len(batch) == _TOGETHER:
                return batch, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, connection: sqlite3.Connection, session: Session, batch: list[_Work]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for item in batch:
                self._carry_out(connection, session, item)
            connection.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001 - the writer lives on, and all are told
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            # Those that were refused too: it may be for what another one wrote, and that is gone.
            for item in batch:
                item.error = self._told(exc)

    def _carry_out(self, connection: sqlite3.Connection, session: Session, item: _Work) -> None:
        connection.execute("SAVEPOINT work")
        try:
            item.result = item.do(session)
        except BaseException as exc:
            item.error = self._told(exc)
            if not connection.in_transaction:
                raise  # SQLite gave everything up, as it may on a full disk: so do the others
            connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")

    def _told(self, exc: BaseException) -> BaseException:
        """What a caller hears of an error; an exception of its own for each of them."""
        return _storage_error(self.path, exc) if isinstance(exc, sqlite3.Error) else exc


def _settle(batch: list[_Work]) -> None:
    for item in batch:
        item.settle()


def _storage_error(path: Path, exc: sqlite3.Error) -> StorageError:
    return StorageError(f"{path.name}: {exc}")


def _statements(script: str) -> list[str]:
    """The statements of a script. Triggers, with their inner semicolons, are kept whole."""
    found, part = [], ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            found.append(part.strip())
            part = ""
    return [each for each in found if each]
