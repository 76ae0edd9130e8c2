"""The tokens that a function gets for one attempt: signed, expiring, bound to it and its scope."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from fnship.engine.model import Scope
from fnship.errors import TokenRefused

__all__ = ["Grant", "Kind", "Tokens"]

Kind: TypeAlias = Literal["state", "log"]

_VERSION: Final = "1"
_LONGEST: Final = 4096  # characters of a token that are looked at


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a token allows.

    Attributes:
        kind: ``state``: to read and write the state of its scope. ``log``: to add to its log.
        activity_id: Whose attempt it was made for.
        attempt: Which one.
        scope: Whose activity it is.
        expires: Until when, in seconds since 1970.
    """

    kind: str
    activity_id: str
    attempt: int
    scope: Scope
    expires: float


_GRANTS: Final = msgspec.json.Decoder(Grant)


class Tokens:
    """Makes tokens and reads them back. What they say is no secret; who made them is certain.

    Args:
        secret: The key of their signatures, 32 bytes.
        clock: Seconds since 1970.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock

    def mint(self, kind: Kind, activity_id: str, attempt: int, scope: Scope, expires: float) -> str:
        """A token.

        Args:
            kind: What for.
            activity_id: Whose attempt it is for.
            attempt: Which one.
            scope: Whose activity it is.
            expires: Until when, in seconds since 1970.
        """
        said = _text(msgspec.json.encode(Grant(kind, activity_id, attempt, scope, expires)))
        signed = f"{_VERSION}.{said}"
        return f"{signed}.{_text(self._signature(signed))}"

    def verify(self, token: str, kind: Kind) -> Grant:
        """What a token allows.

        Args:
            token: As it was minted.
            kind: What it is used for.

        Raises:
            TokenRefused: It is none of ours, of another kind, or expired.
        """
        signed, _, signature = token[:_LONGEST].rpartition(".")
        version, _, said = signed.partition(".")
        try:
            # As text: of the last character of base64 not every bit counts.
            right = hmac.compare_digest(signature.encode(), _text(self._signature(signed)).encode())
            if version != _VERSION or not right:
                raise TokenRefused("the token was not made by this engine")
            grant = _GRANTS.decode(_bytes(said))
        except (ValueError, msgspec.MsgspecError):
            raise TokenRefused("the token was not made by this engine") from None
        if grant.kind != kind:
            raise TokenRefused(f"the token is for {grant.kind}, not for {kind}")
        if self._clock() >= grant.expires:
            raise TokenRefused("the token has expired")
        return grant

    def _signature(self, signed: str) -> bytes:
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
