"""Where functions and callbacks may be: not at the engine itself, nor at link-local addresses.

A link-local address is where clouds keep the credentials of their machines, so a URL that leads
there is refused, whatever it is called: the address that is connected to counts, each time.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from fnship.errors import InvalidRequest

__all__ = ["AddressPolicy", "RefusedAddress", "guarded_connector"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NEVER: Final = "{} is {}, which is not called unless the engine is started with --allow {}"
_LOCALHOST: Final = "localhost"
_LONGEST_NAME: Final = 253
_LONGEST_LABEL: Final = 63


class RefusedAddress(OSError):
    """A name leads to an address that may not be called. Says which, and how to allow it."""


class AddressPolicy:
    """What may be called.

    Args:
        own: ``host:port`` that the engine itself listens on.
        allow: Hosts, addresses and networks that may be called although they are refused.

    Raises:
        InvalidRequest: One of `own` or `allow` cannot be read.
    """

    def __init__(self, *, own: Sequence[str] = (), allow: Sequence[str] = ()) -> None:
        self._own = [_own_address(each) for each in own]
        self._hosts: set[str] = set()
        self._networks: list[_Network] = []
        for each in allow:
            try:
                self._networks.append(ipaddress.ip_network(each, strict=False))
            except ValueError:
                if not each or "/" in each:
                    raise InvalidRequest(
                        f"{each!r} is no host, address or network that could be allowed"
                    ) from None
                self._hosts.add(each.lower().rstrip("."))

    def add_own(self, address: str) -> None:
        """Refuse one more address that the engine itself listens on.

        Raises:
            InvalidRequest: It is no ``host:port``.
        """
        self._own.append(_own_address(address))

    def check_url(self, url: str) -> str:
        """See that a URL may be called, as far as it can be seen without asking for its name.

        Returns:
            The URL.

        Raises:
            InvalidRequest: It is none, or may not be called.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]
        except (ValueError, KeyError):
            host, port = None, 0
        if not host or not _is_host(host) or re.search(r"[^\x21-\x7e]", url):
            raise InvalidRequest(f"{url!r} is no URL such as http://127.0.0.1:5000")
        if parts.username is not None or parts.password is not None:
            raise InvalidRequest("a URL with a user or password in it is not called")
        if parts.fragment:
            raise InvalidRequest(f"{url!r} has a part behind #, which is never sent")
        for address in _literal(host):
            problem = self.problem(host, address, port)
            if problem:
                raise InvalidRequest(problem)
        return url

    def problem(self, host: str, address: str, port: int) -> str:
        """Why an address may not be called; empty where it may.

        Args:
            host: What it is called.
            address: What that leads to.
            port: The port there.
        """
        found: _Address = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found.sixtofour or found
        if host.lower().rstrip(".") in self._hosts:
            return ""
        if any(found in network for network in self._networks):
            return ""
        shown = host if host == address else f"{host} ({address})"
        if found.is_link_local:
            return _NEVER.format(shown, "a link-local address", host)
        if found.is_multicast or (found.is_reserved and not found.is_loopback):
            return _NEVER.format(shown, "no address of a single machine", host)
        if any(own_port == port and _leads_to(own, found) for own, own_port in self._own):
            return _NEVER.format(f"{shown} on port {port}", "this engine itself", host)
        return ""


class _GuardedResolver(AbstractResolver):
    """Resolves names, and gives only addresses that may be called."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            RefusedAddress: One of them may not be called.
        """
        found = await self._inner.resolve(host, port, family)
        for each in found:
            problem = self._policy.problem(host, each["host"], port)
            if problem:
                raise RefusedAddress(problem)
        return found

    async def close(self) -> None:
        """Close."""
        await self._inner.close()


def guarded_connector(policy: AddressPolicy) -> aiohttp.TCPConnector:
    """What makes connections, to nowhere that `policy` refuses. Made on a running loop.

    Args:
        policy: What may be called. Addresses written in a URL are not resolved, so those must
            have passed `AddressPolicy.check_url`.
    """
    return aiohttp.TCPConnector(
        resolver=_GuardedResolver(policy), limit=0, use_dns_cache=False, keepalive_timeout=30.0
    )


def _is_host(host: str) -> bool:
    """Whether a host is an address, or a name that can be looked up."""
    if ":" in host:
        return True
    name = host.removesuffix(".")
    return len(name) <= _LONGEST_NAME and all(
        0 < len(label) <= _LONGEST_LABEL for label in name.split(".")
    )


def _leads_to(own: _Address, found: _Address) -> bool:
    """Whether what is sent to `found` comes to who listens on `own`, if the port is the same."""
    if own == found or found.is_unspecified:
        return True
    if own.is_unspecified:
        return found.is_loopback or _is_of_this_machine(found)
    return own.is_loopback and found.is_loopback


def _is_of_this_machine(address: _Address) -> bool:
    """Whether an address is one of this machine's: no other can be bound. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _literal(host: str) -> list[str]:
    """The address that a host is, if that can be seen, in whichever of its spellings."""
    if f".{host.removesuffix('.')}".lower().endswith(f".{_LOCALHOST}"):
        return ["127.0.0.1"]  # all of these names are loopback, RFC 6761
    try:
        return [str(ipaddress.ip_address(host.partition("%")[0]))]
    except ValueError:
        pass
    # 0xa9fea9fe, 2852039166, 169.254.43518: what C libraries take for an address too.
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        return []


def _own_address(text: str) -> tuple[_Address, int]:
    host, _, port = text.rpartition(":")
    try:
        found: Any = ipaddress.ip_address(host.strip("[]"))
        return found, int(port)
    except ValueError as exc:
        raise InvalidRequest(f"{text!r} is no address with a port") from exc
