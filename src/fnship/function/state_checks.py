"""What the state client is given, looked at before anything is sent: URL, ids, keys, times.

Every refusal is a ValueError: these are mistakes of the program, not of the store.
"""

from __future__ import annotations

import base64
import math
import re
import urllib.parse
from typing import Final

__all__ = ["check_key", "check_text", "check_ttl", "header_value", "take_apart"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def take_apart(base_url: str) -> tuple[str, str, dict[str, str]]:
    """The URL to ask, its origin for messages, and a header for the user in it.

    Raises:
        ValueError: It is no http or https URL.
    """
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or _CONTROL.search(base_url):
        raise ValueError("the state store's URL is not one that starts with http:// or https://")
    user, at, netloc = parts.netloc.rpartition("@")
    authorization = {}
    if at:
        pair = urllib.parse.unquote(user).encode()
        authorization["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    path = urllib.parse.quote(parts.path.rstrip("/") or "/", safe="/%:@!$&'()*+,;=~")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    url = urllib.parse.urlunsplit((parts.scheme, netloc, path, query, ""))
    shown = f"[{host}]" if ":" in host else host
    return url, f"{parts.scheme}://{shown}{f':{port}' if port else ''}", authorization


def header_value(value: object, what: str) -> str:
    """`value`, called `what` in a refusal that does not repeat it: it may be a token."""
    if not isinstance(value, str) or not value or _CONTROL.search(value):
        raise ValueError(f"{what} must be text that can stand in a header")
    check_text(value, what)
    return value


def check_key(key: object) -> None:
    """Refuse what is no key."""
    if not isinstance(key, str) or not key:
        raise ValueError("a state key must be text of at least one character")
    check_text(key, "a state key")


def check_text(text: str, what: str) -> None:
    """Refuse text that UTF-8 cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has half of a surrogate pair, which UTF-8 cannot carry") from None


def check_ttl(ttl: float) -> float:
    """`ttl`, if it is a time to live."""
    if not (ttl > 0 and math.isfinite(ttl)):
        raise ValueError("ttl must be a number of seconds above 0")
    return ttl
