"""Who may use the engine's API, and for what."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from fnship.errors import Missing, NotAllowed, StorageError, TokenRefused, UsageError

__all__ = ["Authority", "Role", "TokenRecord"]

_PREFIX: Final = "fnship"
_LONGEST: Final = 1024  # characters of a token that are looked at
_OWNER_ONLY: Final = 0o600


class Role(StrEnum):
    """What a token allows; each allows what those before it do."""

    READ = "read"
    """To look at everything."""
    INVOKE = "invoke"
    """To run, cancel and replay activities."""
    ADMIN = "admin"
    """To change functions, state and tokens as well."""

    def allows(self, needed: Role) -> bool:
        """Whether it is enough where `needed` is needed."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a token. The token itself is not.

    Attributes:
        id: What it is revoked by.
        role: What it allows.
        name: What it is for, in its maker's words.
        digest: The SHA-256 of the token, in hexadecimal digits.
        created: When it was made, in seconds since 1970.
        expires: Until when it is good; None for ever.
    """

    id: str
    role: Role
    name: str
    digest: str
    created: float
    expires: float | None


class Authority:
    """Knows the tokens of the API: the main one, which allows all, and those made with `mint`.

    Its methods may be called from any thread; `mint` and `revoke` wait for the disk.

    Args:
        main: The main token.
        file: Where the digests of the others are kept; made with the first of them.
        clock: Seconds since 1970.

    Raises:
        UsageError: The file cannot be read.
    """

    def __init__(self, main: str, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._main = _digest(main)
        self._file = file
        self._clock = clock
        self._changing = threading.Lock()
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=list[TokenRecord])
        except FileNotFoundError:
            kept = []
        except (OSError, msgspec.MsgspecError) as exc:
            raise UsageError(f"{file} cannot be used: {exc}") from exc
        self._records = {each.id: each for each in kept}

    def mint(self, role: Role, expires: float | None = None, name: str = "") -> tuple[str, str]:
        """Make a token for a role.

        Args:
            role: What it allows.
            expires: Until when, in seconds since 1970; None for ever.
            name: What it is for.

        Returns:
            Its id, and the token, which nobody can ask for again.

        Raises:
            StorageError: It cannot be kept.
        """
        token_id = secrets.token_hex(6)
        token = f"{_PREFIX}_{token_id}_{secrets.token_urlsafe(32)}"
        record = TokenRecord(
            id=token_id,
            role=role,
            name=name,
            digest=_digest(token),
            created=self._clock(),
            expires=expires,
        )
        with self._changing:
            self._keep({**self._records, token_id: record})
        return token_id, token

    def records(self) -> list[TokenRecord]:
        """What is kept of every token that is good, the oldest first."""
        return [each for each in self._records.values() if not self._has_expired(each)]

    def revoke(self, token_id: str) -> None:
        """Refuse a token from now on.

        Raises:
            Missing: There is none of this id.
            StorageError: It cannot be kept, so the token is still good.
        """
        with self._changing:
            if token_id not in self._records:
                raise Missing(f"there is no token {token_id!r}")
            self._keep({key: each for key, each in self._records.items() if key != token_id})

    def check(self, authorization: str | None, needed: Role) -> Role:
        """See that a request may do what it wants to.

        Args:
            authorization: Its header of that name.
            needed: What it needs.

        Returns:
            The role that it has.

        Raises:
            TokenRefused: It brings no token, a wrong one, or one that has expired.
            NotAllowed: Its role is not enough.
        """
        role = self._role(authorization)
        if not role.allows(needed):
            raise NotAllowed(f"the token has the role {role}, and this needs {needed}")
        return role

    def _role(self, authorization: str | None) -> Role:
        if authorization is None:
            raise TokenRefused("there is no token: send it as Authorization: Bearer TOKEN")
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("the Authorization is no Bearer token")
        digest = _digest(token[:_LONGEST])
        if hmac.compare_digest(digest, self._main):
            return Role.ADMIN
        parts = token.split("_", 2)
        record = self._records.get(parts[1]) if len(parts) == 3 else None
        if record is None or not hmac.compare_digest(digest, record.digest):
            raise TokenRefused("the token is not this engine's, or was revoked")
        if self._has_expired(record):
            raise TokenRefused("the token has expired")
        return record.role

    def _has_expired(self, record: TokenRecord) -> bool:
        return record.expires is not None and self._clock() >= record.expires

    def _keep(self, records: dict[str, TokenRecord]) -> None:
        """Write the file anew, without what has expired."""
        records = {key: each for key, each in records.items() if not self._has_expired(each)}
        part = self._file.with_name(f"{self._file.name}.part")
        try:
            part.unlink(missing_ok=True)
            made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
            with os.fdopen(made, "wb") as to:
                to.write(msgspec.json.encode(list(records.values())))
                to.flush()
                os.fsync(to.fileno())
            part.replace(self._file)
        except OSError as exc:
            raise StorageError(f"the tokens cannot be kept: {exc.strerror or exc}") from exc
        self._records = records


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
