"""Clients that have connected in the moment before a server ceases to listen."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from fnship.server import gthread
from fnship.server.fastapi import FunctionAPI
from fnship.server.fastapi_server import API_CONFIG, APIServer
from fnship.server.process import load_function
from fnship.server.single import CONFIG, FunctionServer
from fnship.server.sockets import listen, while_wanted
from fnship.settings import Settings

CLIENTS = 7
REQUEST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"

Serve = Callable[[socket.socket, "Last", pytest.MonkeyPatch], None]


def handle(logger: Any, request: dict[str, Any]) -> str:
    return "served"


class Last:
    """What a server does last before it ceases to listen: clients connect, all at once.

    The system lets them in; the server has no chance to accept them before it stops.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._where = listener.getsockname()
        self._clients: list[threading.Thread] = []
        self.started = False
        self.answers: list[bytes] = []

    def start(self) -> None:
        self.started = True

    def is_over(self) -> bool:
        if self.started and not self._clients:
            for _ in range(CLIENTS):
                client = socket.create_connection(self._where, timeout=30)
                client.sendall(REQUEST)
                self._clients.append(threading.Thread(target=self._read, args=(client,)))
                self._clients[-1].start()
        return self.started

    def join(self) -> None:
        for client in self._clients:
            client.join()

    def _read(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as file:
            self.answers.append(file.read())


def serve_single(listener: socket.socket, last: Last, _: pytest.MonkeyPatch) -> None:
    function = load_function(handle, Settings(), {})
    config = uvicorn.Config(function, **CONFIG)
    FunctionServer(config, function, started=last.start, must_stop=last.is_over).run([listener])


def serve_fastapi(listener: socket.socket, last: Last, _: pytest.MonkeyPatch) -> None:
    api = FunctionAPI(load_function(handle, Settings(), {}))
    config = uvicorn.Config(api, **API_CONFIG)
    APIServer(config, api, started=last.start, must_stop=last.is_over).run([listener])


def serve_flask(listener: socket.socket, last: Last, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on(worker: Any) -> bool:
        if worker.flask.background.is_started:
            last.start()
        if last.is_over():
            worker.handle_exit(signal.SIGTERM, None)
            worker.alive = False
        return bool(worker.alive)

    monkeypatch.setattr(gthread._LoneWorker, "is_parent_alive", go_on)
    gthread.run_single(
        load_function(handle, Settings(), {}), listener, announce=lambda: None, say=print
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as listener:
        yield listener


@pytest.mark.parametrize("serve", [serve_single, serve_fastapi, serve_flask])
def test_they_are_served(
    listener: socket.socket, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = Last(listener)
    serve(listener, last, monkeypatch)
    last.join()
    assert len(last.answers) == CLIENTS
    for answer in last.answers:
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.endswith(b'"served"')


def test_who_does_not_wait_is_not_waited_for(listener: socket.socket) -> None:
    assert list(while_wanted(listener)) == []
    with socket.create_connection(listener.getsockname()):
        for count, _ in enumerate(while_wanted(listener)):
            listener.accept()[0].close()
            assert count == 0
