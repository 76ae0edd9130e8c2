"""What CONTRACT §4 says of a watchdog, asked of both: our own, and a function behind one."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import PATIENCE, serving, until, write_function
from watchdogs import (
    BEHIND,
    HANDLER,
    KINDS,
    NATIVE,
    Held,
    Watched,
    children,
    free_port,
    lock_file_alone,
    steady,
    watched,
)

BLOCKING = """\
import os, time
from pathlib import Path


def handle(logger, request):
    Path(f"{request['gate']}.{os.getpid()}.begun").touch()
    while not Path(f"{request['gate']}.open").exists():
        time.sleep(0.01)
    return {}
"""
"""A plain handler, which holds a thread for as long as it runs."""


ONE_AND_SEVERAL = pytest.mark.parametrize(
    ("kind", "workers"), [(NATIVE, 1), (NATIVE, 2), (BEHIND, 1)]
)
"""Of ours, several workers drain together; behind the other, that is tested on its own."""

HEADERS_SEEN = """\
import http.server, json, os


class Function(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_POST(self):
        length = int(self.headers["Content-Length"] or 0)
        self.rfile.read(length)
        while "Transfer-Encoding" in self.headers:
            size = int(self.rfile.readline(), 16)
            self.rfile.read(size + 2)
            if not size:
                break
        self.answer()

    def answer(self):
        seen = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "x-of-this-connection")
        self.send_header("X-Of-This-Connection", "1")
        self.send_header("X-End-To-End", "1")
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Function).serve_forever()
"""
"""A function process that answers with the headers that it was sent."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=[NATIVE])
def native(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def lock_file() -> Iterator[Path]:
    with lock_file_alone() as file:
        yield file


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """One that many tests share: without limits, and with the calls' ids in its access lines."""
    folder = tmp_path_factory.mktemp("plain")
    with watched(request.param, folder, log_call_id="true", exec_timeout="0") as server:
        yield server


@pytest.fixture(scope="module", params=KINDS)
def patient(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """One whose limit no test ever reaches."""
    with watched(request.param, tmp_path_factory.mktemp("hour"), exec_timeout="1h") as server:
        yield server


@pytest.fixture(scope="module", params=KINDS)
def hasty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """One that waits for no client."""
    folder = tmp_path_factory.mktemp("hasty")
    with watched(request.param, folder, read_timeout="600ms", write_timeout="700ms") as server:
        yield server


def ended_by_server(connection: socket.socket) -> bytes:
    """What a connection still gives until its end."""
    got = b""
    with connection:
        try:
            while piece := connection.recv(65536):
                got += piece
        except ConnectionResetError:
            pass
    return got


def is_refused(server: Watched) -> bool:
    """Whether nobody listens any more."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it came at the very moment of the end
    return False


def is_open_at_server(port: int, client_port: int) -> bool:
    """Whether the server's end of a connection is still open, by the system's own list."""
    ours, theirs = f":{port:04X}", f":{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if local.endswith(ours) and remote.endswith(theirs):
            return state == "01"
    return False


class TestProbes:
    def test_a_function_that_serves_is_healthy_and_ready(self, server: Watched) -> None:
        assert server.health().status == 200
        assert server.ready().status == 200

    def test_ready_gives_the_function_s_own_answer(self, server: Watched) -> None:
        no = server.folder / "not-ready"
        no.touch()
        try:
            assert server.ready().status == 503
            assert server.health().status == 200
            assert server.call({}).status == 200
        finally:
            no.unlink()
        assert server.ready().status == 200

    def test_until_the_function_has_started_it_is_healthy_but_not_ready(
        self, kind: str, tmp_path: Path
    ) -> None:
        gate = tmp_path / "go"
        with watched(kind, tmp_path, up=False, START_GATE=str(gate)) as server:

            def not_yet() -> bool:
                try:
                    return server.ready().status == 503
                except OSError:
                    return False

            until(not_yet, "an answer")
            assert server.health().status == 200
            assert server.call({}).status == 503
            gate.touch()
            until(server.is_up, "ready")
            assert server.call({}).status == 200

    @pytest.mark.parametrize("held", [1, 3])
    def test_they_answer_while_every_thread_is_busy(
        self, kind: str, tmp_path: Path, held: int
    ) -> None:
        with watched(kind, tmp_path, BLOCKING, MAX_WORKERS="1") as server:
            calls = [server.hold(f"call{number}") for number in range(held)]
            calls[0].wait_until_held()
            for _ in range(3):
                assert server.health().status == 200
                assert server.ready().status == 200
            for call in calls:
                call.release()
            assert [call.answer()[0] for call in calls] == [200] * held


class TestForwarding:
    def test_status_and_body_are_the_function_s(self, server: Watched) -> None:
        assert server.call({"echo": ["ä", None, 1.5]}).json["echo"] == ["ä", None, 1.5]
        failed = server.call({"fail": "no"})
        assert failed.status == 500
        assert failed.json == {"error_code": 2, "message": "function: failed: no"}
        assert server.call(b"{").status == 400

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/", 405), ("PATCH", "/", 405), ("GET", "/a/b?c=d", 404), ("POST", "/x", 404)],
    )
    def test_every_path_and_verb_gets_to_it(
        self, server: Watched, method: str, path: str, status: int
    ) -> None:
        reply = server.call(method=method, path=path)
        assert reply.status == status
        assert reply.json["error_code"] == 2

    @pytest.mark.parametrize("body", [{}, {"fail": "no"}, b"{"])
    def test_every_answer_says_how_long_it_took(self, server: Watched, body: object) -> None:
        taken = server.call(body).headers["x-duration-seconds"]
        assert re.fullmatch(r"\d+\.\d+", taken)

    @pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
    def test_bodies_of_known_length(self, server: Watched, size: int) -> None:
        assert server.call({"echo": "x" * size}).json["echo"] == "x" * size

    @pytest.mark.parametrize("size", [1, 7, 65_536])
    def test_chunked_bodies(self, server: Watched, size: int) -> None:
        text = b'{"echo": "%b"}' % (b"0123456789" * (20 if size == 1 else 20_000))
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
        connection = server.connect()
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(chunks)
        head, _, body = ended_by_server(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert text.removeprefix(b'{"echo": ').removesuffix(b"}") in body

    def test_answers_of_many_megabytes(self, server: Watched) -> None:
        assert len(server.call({"bytes": 20_000_000}).json["text"]) == 20_000_000

    def test_one_connection_serves_many_calls(self, server: Watched) -> None:
        connection = server.connect()
        with connection, connection.makefile("rb") as answers:
            for number in range(5):
                body = b'{"echo": %d}' % number
                connection.sendall(
                    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
                assert answers.readline().startswith(b"HTTP/1.1 200 ")
                length = 0
                while (line := answers.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                assert b'"echo":%d' % number in answers.read(length)

    def test_lines_of_any_length_stop_nothing(self, server: Watched) -> None:
        long, longer = "y" * 1_000_000, "z" * 3_000_000
        assert server.call({"log": long, "print": longer}).status == 200
        assert server.call({"print": "the line after"}).status == 200
        until(lambda: "the line after" in server.stdout, "the line after")
        assert f"msg={long}\n" in server.stdout
        assert f"msg={longer}\n" in server.stdout
        assert server.health().status == 200


class TestAccessLines:
    def test_they_end_with_the_call_s_id(self, server: Watched) -> None:
        path = f"/{os.urandom(4).hex()}"
        server.call({}, {"X-Call-Id": "c-1"}, path=path)
        server.call(method="GET", path=path)
        wanted = [("POST", path, "404", "c-1"), ("GET", path, "404", "")]
        until(
            lambda: [line for line in server.access_lines() if line.path == path] == wanted,
            "both lines",
        )

    def test_probes_have_none(self, server: Watched) -> None:
        path = f"/{os.urandom(4).hex()}"
        server.health()
        server.ready()
        server.call({}, path=path)
        until(lambda: any(line.path == path for line in server.access_lines()), "the line")
        assert not [line for line in server.access_lines() if line.path.startswith("/_/")]

    def test_without_the_setting_they_have_no_id(self, patient: Watched) -> None:
        path = f"/{os.urandom(4).hex()}"
        patient.call({}, {"X-Call-Id": "c-1"}, path=path)
        until(lambda: any(line.path == path for line in patient.access_lines()), "the line")
        (line,) = [line for line in patient.access_lines() if line.path == path]
        assert line.call_id is None

    def test_the_setting_has_two_spellings(self, kind: str, tmp_path: Path) -> None:
        with watched(kind, tmp_path, log_callid="true") as server:
            server.call({}, {"X-Call-Id": "c-1"})
            until(server.access_lines, "the line")
            assert [line.call_id for line in server.access_lines()] == ["c-1"]

    def test_ours_can_be_turned_off(self, native: str, tmp_path: Path) -> None:
        with watched(native, tmp_path, ACCESS_LOG="false") as server:
            server.call({"print": "a line of its own"})
            until(lambda: "a line of its own" in server.stdout, "the line")
            assert server.stop() == 0
            assert not server.access_lines()


class TestTimeLimits:
    @pytest.mark.parametrize("limit", ["1", "250ms"])
    def test_exec_timeout_ends_a_call_with_504(self, kind: str, tmp_path: Path, limit: str) -> None:
        with watched(kind, tmp_path, exec_timeout=limit) as server:
            # X-Timeout may not lengthen it, and is no way around it.
            calls = [
                server.hold("never"),
                server.hold("long", **{"X-Timeout": "1h"}),
                server.hold("nonsense", **{"X-Timeout": "soon"}),
            ]
            assert [call.answer()[0] for call in calls] == [504] * 3
            assert server.call({}).status == 200
            until(lambda: server.scrape().in_flight == 0, "nothing in flight")
            assert server.scrape().requests(code="504") == 3

    @pytest.mark.parametrize("limit", ["100ms", "0.1s", "100000us", "0h0m0.1s"])
    def test_x_timeout_shortens_it(self, patient: Watched, limit: str) -> None:
        assert patient.call({"gate": f"never-{limit}"}, {"X-Timeout": limit}).status == 504
        assert patient.call({}).status == 200

    @pytest.mark.parametrize("limit", ["1m30s", "45s", "1h30m", "", "soon", "1x", "1m 30s", "-"])
    def test_x_timeout_that_is_long_or_nonsense_ends_nothing(
        self, patient: Watched, limit: str
    ) -> None:
        assert patient.call({"seconds": 0.1}, {"X-Timeout": limit}).status == 200

    @pytest.mark.parametrize("limit", ["1ms", "10ms"])
    def test_x_timeout_does_nothing_where_exec_timeout_is_0(
        self, server: Watched, limit: str
    ) -> None:
        assert server.call({"seconds": 0.3}, {"X-Timeout": limit}).status == 200

    def test_a_request_has_to_be_whole_within_read_timeout(self, hasty: Watched) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\n"
        connections = [
            hasty.connect_and_send(sent)
            for sent in (
                head[:1],
                head,
                head + b'Content-Length: 100\r\n\r\n{"echo": 1}',
                head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
            )
        ]
        for connection in connections:
            assert b" 200 " not in ended_by_server(connection)
        assert hasty.call({}).status == 200
        until(lambda: hasty.scrape().in_flight == 0, "nothing in flight")

    def test_a_request_that_comes_byte_by_byte_is_not_waited_for(self, hasty: Watched) -> None:
        connection = hasty.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        connection.settimeout(0.1)
        limit = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < limit, "it is still read"
            try:
                connection.sendall(b" ")
                if not connection.recv(65536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        connection.close()

    @pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
    def test_an_answer_has_to_be_taken_within_write_timeout(self, hasty: Watched) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", hasty.port))
            body = b'{"bytes": 30000000}'
            client.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            own = client.getsockname()[1]
            until(lambda: not is_open_at_server(hasty.port, own), "given up")
            assert len(ended_by_server(client)) < 30_000_000
        assert hasty.call({}).status == 200

    def test_they_are_about_the_client_and_not_about_the_function(self, hasty: Watched) -> None:
        """The real one's write_timeout counts from the request on; CONTRACT §4 does not say so."""
        assert hasty.call({"seconds": 1.2}).status == 200


class TestMaxInflight:
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_exactly_so_many_are_served_whichever_worker_they_come_to(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(kind, tmp_path, workers=workers, max_inflight="5") as server:
            if workers > 1 and kind == NATIVE:
                server.spread(2)
                until(lambda: server.scrape().in_flight == 0, "nothing in flight")
            before = server.scrape().requests(code="429")
            calls = [server.hold(f"call{number}") for number in range(14)]
            until(lambda: server.scrape().requests(code="429") >= before + 9, "all refused")
            until(lambda: sum(call.pid is not None for call in calls) == 5, "five held")
            assert server.scrape().in_flight == 5
            assert server.ready().status == 429
            assert server.health().status == 200
            assert server.call({}).status == 429
            for call in calls:
                call.release()
            statuses = sorted(call.answer()[0] for call in calls)
            assert statuses == [200] * 5 + [429] * 9
            until(lambda: server.ready().status == 200, "ready")
            assert server.call({}).status == 200
            assert server.scrape().requests(code="429") == before + 10

    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_way_to_end_gives_the_place_back(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(
            kind, tmp_path, workers=workers, max_inflight="1", exec_timeout="300ms"
        ) as server:

            def free() -> bool:
                return server.scrape().in_flight == 0

            for _ in range(2):
                assert server.call({"fail": "no"}).status == 500
                assert server.call(b"{").status == 400
                assert server.call(method="GET", path="/nothing").status == 404
                assert server.call({"gate": "never"}).status == 504
                gone = server.hold(f"gone{_}")
                gone.wait_until_held()
                gone.drop()
                until(free, "nothing in flight")
            assert server.call({}).status == 200


class TestMetrics:
    def test_names_and_labels(self, server: Watched) -> None:
        server.call({})
        metrics = server.scrape()
        assert metrics.kinds == {
            "http_requests_total": "counter",
            "http_request_duration_seconds": "histogram",
            "http_requests_in_flight": "gauge",
        }
        for (name, has), _ in metrics.samples.items():
            wanted = {"http_requests_in_flight": set()}.get(name, {"code", "method"})
            if name.endswith("_bucket"):
                wanted = wanted | {"le"}
            assert {label for label, _ in has} == wanted
        assert metrics.requests(code="200", method="post") > 0

    def test_every_request_is_counted_once_and_probes_are_not(self, server: Watched) -> None:
        before = server.scrape()
        for _ in range(3):
            server.call({})
        server.call({"fail": "no"})
        server.call(method="GET", path="/nothing")
        server.call(method="PROPFIND", path="/nothing")
        server.health()
        server.ready()
        wanted = {
            ("200", "post"): 3,
            ("500", "post"): 1,
            ("404", "get"): 1,
            ("404", "unknown"): 1,
        }
        after = server.scrape()
        for (code, method), count in wanted.items():
            assert (
                after.requests(code=code, method=method) - before.requests(code=code, method=method)
                == count
            )
        counted = "http_request_duration_seconds_count"
        assert after.requests() - before.requests() == 6
        assert after.total(counted) - before.total(counted) == 6

    def test_a_call_is_in_flight_for_as_long_as_it_takes(self, server: Watched) -> None:
        assert server.scrape().in_flight == 0
        name = os.urandom(4).hex()
        call = server.hold(name)
        call.wait_until_held()
        assert server.scrape().in_flight == 1
        call.release()
        assert call.answer()[0] == 200
        until(lambda: server.scrape().in_flight == 0, "nothing in flight")

    def test_a_duration_is_in_the_buckets_that_hold_it(self, server: Watched) -> None:
        def slow(limit: str) -> float:
            bucket = "http_request_duration_seconds_bucket"
            metrics = server.scrape()
            below = metrics.samples.get(
                (bucket, frozenset({("code", "200"), ("method", "post"), ("le", limit)})), 0
            )
            return metrics.requests(code="200", method="post") - below

        before = slow("0.25")
        total = server.scrape().total("http_request_duration_seconds_sum")
        server.call({"seconds": 0.4})
        assert slow("0.25") == before + 1
        assert server.scrape().total("http_request_duration_seconds_sum") >= total + 0.3

    @pytest.mark.parametrize("workers", [2, 4])
    def test_they_are_added_up_over_all_workers(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(kind, tmp_path, workers=workers) as server:
            server.spread(2)
            before = server.scrape().requests(code="200")
            calls = [server.hold(f"call{number}") for number in range(10)]
            for call in calls:
                call.wait_until_held()
            assert {server.scrape().in_flight for _ in range(5)} == {10}
            for call in calls:
                call.release()
                assert call.answer()[0] == 200
            assert {server.scrape().requests(code="200") for _ in range(5)} == {before + 10}

    def test_nothing_else_is_at_their_port(self, server: Watched) -> None:
        with socket.create_connection(("127.0.0.1", server.metrics_port), PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ended_by_server(connection).startswith(b"HTTP/1.1 404 ")
        with socket.create_connection(("127.0.0.1", server.metrics_port), PATIENCE) as connection:
            connection.sendall(b"nonsense")
        assert server.scrape().kinds


class TestLockFile:
    """That it is there while requests are accepted, the test of the drain's order says."""

    def test_several_workers_hold_one(self, native: str, tmp_path: Path, lock_file: Path) -> None:
        with watched(native, tmp_path, workers=2, suppress_lock="false") as server:
            server.spread(2)
            assert lock_file.exists()
            os.kill(next(iter(server.workers())), signal.SIGKILL)
            server.spread(2)
            assert lock_file.exists()
            assert server.stop() == 0
            assert not lock_file.exists()

    def test_it_can_be_suppressed_and_the_function_is_healthy_all_the_same(
        self, kind: str, tmp_path: Path, lock_file: Path
    ) -> None:
        with watched(kind, tmp_path, suppress_lock="true") as server:
            assert server.health().status == 200
            assert server.ready().status == 200
            assert not lock_file.exists()
            lock_file.touch()  # somebody else's
            assert server.stop() == 0
            assert lock_file.exists()


class TestDrain:
    @ONE_AND_SEVERAL
    def test_it_goes_in_its_order(
        self, kind: str, tmp_path: Path, lock_file: Path, workers: int
    ) -> None:
        with watched(
            kind,
            tmp_path,
            workers=workers,
            suppress_lock="",
            healthcheck_interval="2s",
            write_timeout="20s",
        ) as server:
            assert lock_file.exists()
            held = server.hold("held")
            held.wait_until_held()
            server.signal(signal.SIGTERM)
            until(lambda: not lock_file.exists(), "the lock file's end")
            until(lambda: server.health().status == 503, "unhealthy")
            until(lambda: server.ready().status == 503, "not ready")  # of several, not in one
            assert server.call({"echo": 1}).status == 200  # still accepted
            assert server.scrape().in_flight == 1
            until(lambda: is_refused(server), "no new ones")
            assert server.process.poll() is None  # for the sake of the one that is held
            held.release()
            assert held.answer()[0] == 200
            assert server.wait() == 0
            assert not lock_file.exists()

    def test_with_nothing_in_flight_it_ends(self, kind: str, tmp_path: Path) -> None:
        with watched(kind, tmp_path, healthcheck_interval="0") as server:
            idle = server.connect()  # nothing is owed to it
            assert server.stop() == 0
            assert ended_by_server(idle) == b""

    def test_requests_that_are_arriving_are_in_flight(self, kind: str, tmp_path: Path) -> None:
        head, body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", b'{"echo": 1}'
        parts = {
            "first byte": head[:1],
            "half a head": head[:20],
            "head": head,
            "half a body": head + body[:5],
        }
        with watched(kind, tmp_path, healthcheck_interval="300ms", write_timeout="20s") as server:
            connections = {name: server.connect() for name in parts}
            for name, sent in parts.items():
                connections[name].sendall(sent)
            assert server.call({}).status == 200  # by now, those bytes have been read
            server.signal(signal.SIGTERM)
            until(lambda: is_refused(server), "no new ones")
            got = {}
            for name, sent in parts.items():
                connections[name].sendall((head + body)[len(sent) :])
                got[name] = ended_by_server(connections[name])[:12]
            assert got == dict.fromkeys(parts, b"HTTP/1.1 200")
            assert server.wait() == 0

    @ONE_AND_SEVERAL
    def test_what_is_in_flight_gets_no_more_than_write_timeout(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(
            kind, tmp_path, workers=workers, healthcheck_interval="0", write_timeout="500ms"
        ) as server:
            held = server.hold("never")
            held.wait_until_held()
            assert server.stop() == 0
            assert held.answer()[0] in (0, 500, 503)

    def test_a_client_that_does_not_read_does_not_keep_it(self, kind: str, tmp_path: Path) -> None:
        with (
            watched(kind, tmp_path, healthcheck_interval="0", write_timeout="500ms") as server,
            server.send_and_close({"bytes": 30_000_000}),
        ):
            until(lambda: server.scrape().requests() >= 0 and server.scrape().in_flight == 0)
            assert server.stop() == 0

    @pytest.mark.parametrize(
        ("kind", "workers", "keep_alive"),
        [
            (NATIVE, 1, False),
            (NATIVE, 1, True),
            (NATIVE, 2, False),
            (BEHIND, 1, True),
            (BEHIND, 2, False),
        ],
    )
    def test_under_steady_requests_none_is_lost(
        self, kind: str, tmp_path: Path, workers: int, keep_alive: bool
    ) -> None:
        with watched(
            kind, tmp_path, workers=workers, healthcheck_interval="2s", write_timeout="20s"
        ) as server:
            if workers > 1:
                server.spread(workers)
            with steady(server, {"seconds": 0.05}, keep_alive=keep_alive) as load:
                load.wait_for(20)
                server.signal(signal.SIGTERM)
                until(lambda: server.health().status == 503, "unhealthy")
                load.wait_for(10)
            assert not load.lost
            assert set(load.statuses) == {200}
            assert server.wait() == 0

    @ONE_AND_SEVERAL
    def test_those_that_come_to_the_very_end_are_answered_or_refused(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(
            kind, tmp_path, workers=workers, healthcheck_interval="500ms", write_timeout="20s"
        ) as server:
            with steady(server, {"seconds": 0.05}, threads=2) as load:
                load.wait_for(10)
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
            assert set(load.statuses) == {200}
            # A connection that the system had made, but nobody had accepted yet, is reset.
            refused = [exc for exc in load.lost if isinstance(exc, ConnectionRefusedError)]
            assert len(load.lost) - len(refused) <= 2

    @ONE_AND_SEVERAL
    def test_while_the_function_starts_it_does_not_serve(
        self, kind: str, tmp_path: Path, workers: int
    ) -> None:
        with watched(
            kind,
            tmp_path,
            workers=workers,
            up=False,
            START_GATE=str(tmp_path / "never"),
            healthcheck_interval="2",
        ) as server:

            def status() -> int:
                try:
                    return server.call({}).status
                except OSError:
                    return 0

            until(lambda: status() == 503, "starting")
            server.signal(signal.SIGTERM)
            until(lambda: server.health().status == 503, "unhealthy")
            assert server.call({}).status == 503
            assert server.wait() == 0


class TestDeath:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_one_worker_s_death_is_the_end(self, kind: str, tmp_path: Path, how: int) -> None:
        """But for the signal that asks it to drain, which makes a good end."""
        with watched(kind, tmp_path, healthcheck_interval="0") as server:
            (worker,) = server.workers()
            os.kill(worker, how)
            if how == signal.SIGKILL:
                assert server.wait() != 0
            elif kind == NATIVE:
                assert server.wait() == 0

    def test_counters_and_places_outlive_a_worker(self, kind: str, tmp_path: Path) -> None:
        with watched(kind, tmp_path, workers=2, max_inflight="4") as server:
            if kind == NATIVE:
                server.spread(2)
                until(lambda: server.scrape().in_flight == 0, "nothing in flight")
            calls = [server.hold(f"before{number}") for number in range(4)]
            victim = calls[0].wait_until_held()
            of_victim = [call for call in calls if call.wait_until_held() == victim]
            others = [call for call in calls if call not in of_victim]
            before = server.scrape()
            assert before.in_flight == 4
            os.kill(victim, signal.SIGKILL)
            lost = 0 if kind == NATIVE else 500
            assert [call.answer()[0] for call in of_victim] == [lost] * len(of_victim)
            until(lambda: server.scrape().in_flight == len(others), "its places")
            after = server.scrape().counters()
            assert all(after[key] >= value for key, value in before.counters().items())
            # Its places are there again, and no more than those.
            more = [server.hold(f"after{number}") for number in range(len(of_victim))]
            for call in more:
                call.wait_until_held()
            assert server.call({}).status == 429
            for call in (*others, *more):
                call.release()
                assert call.answer()[0] == 200
            if kind == NATIVE:
                server.spread(2)
            last = server.scrape().counters()
            assert all(last[key] >= value for key, value in after.items())


class TestNative:
    """What only our own does."""

    def test_port_comes_before_the_watchdog_s_own_name_for_it(
        self, native: str, tmp_path: Path
    ) -> None:
        other = free_port()
        with watched(native, tmp_path, PORT=str(other), up=False) as server:
            server.port = other
            until(server.is_up, "ready")
            assert server.call({}).status == 200

    def test_probes_are_not_limited(self, native: str, tmp_path: Path) -> None:
        with watched(native, tmp_path, max_inflight="1") as server:
            held = server.hold("held")
            held.wait_until_held()
            for _ in range(5):
                assert server.health().status == 200
                assert server.ready().status == 429
            held.release()
            assert held.answer()[0] == 200
            assert server.scrape().requests() == 1

    def test_a_refused_call_is_told_to_come_again(self, native: str, tmp_path: Path) -> None:
        with watched(native, tmp_path, max_inflight="1", log_call_id="true") as server:
            held = server.hold("held")
            held.wait_until_held()
            refused = server.call({}, {"X-Call-Id": "second"})
            assert refused.status == 429
            assert refused.json["error_code"] == 3
            assert refused.json["message"].startswith("function: transient error: ")
            until(lambda: server.access_lines(), "its line")
            assert server.access_lines() == [("POST", "/", "429", "second")]
            held.drop()


class TestFunctionProcess:
    """What a function process owes the watchdog in front of it."""

    def test_the_stand_in_forwards_as_the_real_one_was_seen_to(self, tmp_path: Path) -> None:
        files = {"main.py": HEADERS_SEEN}
        sent = {"Connection": "x-secret", "X-Secret": "1", "TE": "trailers", "X-Other": "1"}
        with watched(BEHIND, tmp_path, files) as server:
            reply = server.call({"a": 1}, sent)
            assert reply.json["transfer-encoding"] == "chunked"
            assert reply.json["x-other"] == "1"
            assert not {"content-length", "connection", "x-secret", "te"} & set(reply.json)
            assert reply.headers["x-end-to-end"] == "1"
            assert not {"connection", "x-of-this-connection"} & set(reply.headers)

    def test_and_with_a_length_where_it_is_told_to_buffer(self, tmp_path: Path) -> None:
        files = {"main.py": HEADERS_SEEN}
        with watched(BEHIND, tmp_path, files, http_buffer_req_body="true") as server:
            seen = server.call({"a": 1}).json
            assert seen["content-length"] == "8"
            assert "transfer-encoding" not in seen

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_after_sigterm_it_serves_on_until_idle(self, tmp_path: Path, workers: str) -> None:
        with serving(
            tmp_path,
            HANDLER,
            fprocess="python main.py",
            healthcheck_interval="0",
            GUNICORN_WORKERS=workers,
        ) as server:
            held = Held(server, "held")
            held.wait_until_held()
            server.signal(signal.SIGTERM)
            until(lambda: server.ready().status == 503, "not ready")
            assert server.call({"echo": 1}).status == 200
            # Longer than the interval and its two seconds: one call is still held.
            time.sleep(2.5)
            assert server.process.poll() is None
            assert server.call({"echo": 2}).status == 200
            held.release()
            assert held.answer()[0] == 200
            assert server.wait() == 0
            assert server.stderr.count("\n") == 1  # the greeting

    def test_a_sigterm_that_comes_twice_is_one(self, tmp_path: Path) -> None:
        """As where a whole group is signalled, and the watchdog passes it on as well."""
        with serving(tmp_path, HANDLER, fprocess="python main.py") as server:
            server.signal(signal.SIGTERM)
            server.signal(signal.SIGTERM)
            until(lambda: server.ready().status == 503, "not ready")
            assert server.call({"echo": 1}).status == 200
            assert server.wait() == 0

    def test_it_ends_in_peace_when_its_watchdog_has(self, tmp_path: Path) -> None:
        with watched(BEHIND, tmp_path, healthcheck_interval="0") as server:
            (function,) = children(server.process.pid)
            assert server.stop() == 0
            until(lambda: not Path(f"/proc/{function}/stat").exists(), "the function's end")

    def test_a_function_that_cannot_start_ends_the_watchdog(self, tmp_path: Path) -> None:
        write_function(tmp_path, "handle = 1\n")
        with watched(BEHIND, tmp_path, "handle = 1\n", up=False) as server:
            assert server.wait() == 1
            assert "fnship: error: " in server.stderr
