"""The folder that an engine keeps everything in, for one engine at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from fnship.errors import UsageError

__all__ = ["DataFolder"]

_OWNER_ONLY: Final = 0o600
_SECRET_BYTES: Final = 32


class DataFolder:
    """A data folder, made where it does not exist, and held until `close`.

    Args:
        path: Where it is.

    Attributes:
        database: The file with the engine's own tables.
        durable: The file of the durable layer.
        token_file: Where the token for its API is kept, if the engine made one.

    Raises:
        UsageError: It cannot be used, or another engine uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "engine.sqlite"
        self.durable = self.path / "durable.sqlite"
        self.token_file = self.path / "token"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
            for file in (self.database, self.durable):
                # SQLite would let others read it; what it puts beside it is as the file is.
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, _OWNER_ONLY))
        except OSError as exc:
            raise UsageError(
                f"the data folder {path} cannot be used: {exc.strerror}. Name another with --data"
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.read(self._lock, 32).decode(errors="replace").strip()
            os.close(self._lock)
            who = f", process {holder}," if holder.isdecimal() else ""
            raise UsageError(
                f"another engine{who} uses the data folder {path}. Stop it, or name another "
                "folder with --data"
            ) from exc
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            self._root = self._kept("secret", secrets.token_bytes(_SECRET_BYTES).hex())
        except BaseException:
            self.close()
            raise

    def secret(self, purpose: str) -> bytes:
        """A key of 32 bytes: the same at every start, and another for every purpose."""
        return hmac.new(self._root.encode(), purpose.encode(), hashlib.sha256).digest()

    def token(self) -> str:
        """The token for the API, made at the first start and kept in `token_file`.

        Raises:
            UsageError: It cannot be kept.
        """
        return self._kept("token", secrets.token_urlsafe(_SECRET_BYTES))

    def close(self) -> None:
        """Let another engine use it."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def _kept(self, name: str, fresh: str) -> str:
        """The text of a file for its owner alone; `fresh` is written where there is none."""
        file = self.path / name
        try:
            with contextlib.suppress(FileNotFoundError):
                kept = file.read_text("ascii").strip()
                if kept:
                    return kept
            part = self.path / f"{name}.part"
            part.unlink(missing_ok=True)
            with os.fdopen(
                os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "w"
            ) as to:
                to.write(f"{fresh}\n")
                to.flush()
                os.fsync(to.fileno())
            part.replace(file)
        except (OSError, ValueError) as exc:
            raise UsageError(f"{file} cannot be used: {exc}") from exc
        return fresh
