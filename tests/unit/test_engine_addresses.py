"""Where functions may be, whatever a URL calls it."""

from __future__ import annotations

import asyncio
import http.server
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship import contract
from fnship.engine.addresses import AddressPolicy, guarded_connector
from fnship.engine.invoker import Answer, Attempt, Invoker
from fnship.errors import InvalidRequest

OWN = "127.0.0.1:8700"


@pytest.mark.parametrize(
    ("address", "port", "said"),
    [
        ("169.254.169.254", 80, "link-local"),
        ("fe80::1", 80, "link-local"),
        ("fe80::1%eth0", 80, "link-local"),
        ("::ffff:169.254.169.254", 80, "link-local"),
        ("2002:a9fe:a9fe::", 80, "link-local"),  # 6to4 of the same
        ("224.0.0.1", 80, "no address of a single machine"),
        ("255.255.255.255", 80, "no address of a single machine"),
        ("127.0.0.1", 8700, "this engine itself"),
        ("127.0.0.2", 8700, "this engine itself"),
        ("::1", 8700, "this engine itself"),
        ("0.0.0.0", 8700, "this engine itself"),
        ("::ffff:127.0.0.1", 8700, "this engine itself"),
        ("127.0.0.1", 5000, ""),
        ("10.0.0.7", 8700, ""),
        ("192.0.2.1", 80, ""),
        ("2001:db8::1", 443, ""),
    ],
)
def test_which_addresses(address: str, port: int, said: str) -> None:
    problem = AddressPolicy(own=(OWN,)).problem("a-name", address, port)
    assert said in problem
    assert bool(problem) == bool(said)


@pytest.mark.parametrize("own", ["0.0.0.0:8700", "[::]:8700"])
@pytest.mark.parametrize(
    ("address", "port", "refused"),
    [
        ("127.0.0.1", 8700, True),
        ("::1", 8700, True),
        ("0.0.0.0", 8700, True),
        ("127.0.0.1", 8701, False),
        ("192.0.2.1", 8700, False),
        ("2001:db8::1", 8700, False),
    ],
)
def test_an_engine_on_every_address_is_on_those_of_this_machine(
    own: str, address: str, port: int, refused: bool
) -> None:
    problem = AddressPolicy(own=(own,)).problem("a-name", address, port)
    assert ("this engine itself" in problem) == refused
    assert ("--allow a-name" in problem) == refused


def test_an_engine_on_every_address_is_on_that_of_each_interface() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no interface but the loopback one")
        address = probe.getsockname()[0]
    assert AddressPolicy(own=("0.0.0.0:8700",)).problem(address, address, 8700)
    assert not AddressPolicy(own=(OWN,)).problem(address, address, 8700)


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost.", "a.localhost"])
def test_the_engine_itself_by_its_local_name(name: str) -> None:
    policy = AddressPolicy(own=(OWN,))
    with pytest.raises(
        InvalidRequest, match=r"\(127\.0\.0\.1\) on port 8700 is this engine itself"
    ):
        policy.check_url(f"http://{name}:8700/")
    assert policy.check_url(f"http://{name}:8701/")
    assert policy.check_url(f"http://not{name.removeprefix('a.')}:8700/")
    AddressPolicy(own=(OWN,), allow=(name,)).check_url(f"http://{name}:8700/")


@pytest.mark.parametrize(
    "host",
    [
        *("a..b", ".x", "a..", ".", "x" * 64, f"{'x' * 64}.example.com", ".".join(["x" * 50] * 6)),
        *("", "a b", "a\tb", "ä.example.com", "[::1", "user@host", "host:port", "host:99999"),
    ],
)
def test_a_host_that_nobody_can_look_up(host: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is no URL such as|with a user or password in it"):
        AddressPolicy().check_url(f"http://{host}/")


@pytest.mark.parametrize("host", ["a", "a.", "a_b.example.com", "x" * 63, "[2001:db8::1]"])
def test_a_host_that_may_be(host: str) -> None:
    assert AddressPolicy().check_url(f"http://{host}/path?x=1")


@pytest.mark.parametrize("allowed", ["169.254.169.254", "169.254.0.0/16", "a-name", "A-Name."])
def test_what_is_allowed_may_be_called(allowed: str) -> None:
    policy = AddressPolicy(allow=(allowed,))
    assert policy.problem("a-name", "169.254.169.254", 80) == ""
    assert bool(policy.problem("another", "169.254.9.9", 80)) == ("/" not in allowed)
    assert "link-local" in policy.problem("another", "fe80::1", 80)


@pytest.mark.parametrize("allowed", ["", "1.2.3.4/99", "a/b"])
def test_what_cannot_be_allowed(allowed: str) -> None:
    with pytest.raises(InvalidRequest, match="is no host, address or network"):
        AddressPolicy(allow=(allowed,))


def test_what_is_added_is_its_own_too() -> None:
    policy = AddressPolicy(own=(OWN,))
    assert policy.check_url("http://172.17.0.1:8700/")
    policy.add_own("172.17.0.1:8700")
    with pytest.raises(InvalidRequest, match="this engine itself"):
        policy.check_url("http://172.17.0.1:8700/")


@given(st.integers(0, 2**16 - 1), st.sampled_from(["{}", "[::ffff:{}]", "dword", "hex"]))
def test_no_spelling_of_a_link_local_address_passes(last: int, spelling: str) -> None:
    number = (169 << 24) + (254 << 16) + last
    dotted = str(ipaddress.IPv4Address(number))
    host = {"dword": str(number), "hex": hex(number)}.get(spelling, spelling.format(dotted))
    with pytest.raises(InvalidRequest, match="link-local"):
        AddressPolicy().check_url(f"http://{host}/latest")


class Listening(http.server.HTTPServer):
    """A server that counts who comes."""

    calls = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Listening)
        self.server.calls += 1
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[Listening]:
    with Listening(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def call(names: dict[str, list[str]], host: str, port: int, policy: AddressPolicy) -> list[Answer]:
    """Call a host once for each address that its name has in turn."""

    async def main() -> list[Answer]:
        loop = asyncio.get_running_loop()

        async def resolve(host: Any, port: Any, **_: Any) -> list[Any]:
            family = socket.AF_INET
            return [(family, socket.SOCK_STREAM, 0, "", (names[host].pop(0), port))]

        loop.getaddrinfo = resolve  # type: ignore[method-assign, assignment]
        invoker = Invoker(guarded_connector(policy))
        attempt = Attempt(url=f"http://{host}:{port}/", body=b"{}", headers={}, timeout=5.0)
        try:
            return [await invoker.send(attempt) for _ in range(len(names[host]))]
        finally:
            await invoker.close()

    return asyncio.run(main())


def test_a_name_that_comes_to_lead_elsewhere(listening: Listening) -> None:
    port = listening.server_address[1]
    names = {"moving.example.com": ["127.0.0.1", "169.254.169.254", "127.0.0.1"]}
    first, second, third = call(names, "moving.example.com", port, AddressPolicy())
    assert (first.outcome.code, third.outcome.code) == (None, None)
    assert second.outcome.code == contract.TRANSIENT
    assert "moving.example.com (169.254.169.254) is a link-local address" in second.outcome.message
    assert "--allow moving.example.com" in second.outcome.message
    assert listening.calls == 2


def test_a_name_that_leads_to_the_engine_itself(listening: Listening) -> None:
    port = listening.server_address[1]
    policy = AddressPolicy(own=(f"127.0.0.1:{port}",))
    (answer,) = call({"own.example.com": ["127.0.0.1"]}, "own.example.com", port, policy)
    assert "this engine itself" in answer.outcome.message
    assert listening.calls == 0
