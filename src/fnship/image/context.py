"""What a builder is sent of a function's folder, and whether there is a secret among it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fnship.errors import UsageError

__all__ = ["Ignored", "check_secrets", "sent_files"]

# Files whose very name says that they hold credentials.
_SECRET_NAMES: Final = re.compile(
    r"\.env(?!\.(?:example|sample|template|dist)$)(?:\..+)?|[._]netrc|\.pypirc|\.pgpass|"
    r"\.git-credentials|\.npmrc|pip\.(?:conf|ini)|\.dockercfg|id_(?:rsa|dsa|ecdsa|ed25519)"
)
_SECRET_PATHS: Final = re.compile(
    r"(?:.*/)?(?:\.aws/credentials|\.docker/config\.json|\.kube/config)"
)
_KEY_FILES: Final = (".pem", ".key", ".p8", ".json")
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_PARTS: Final = re.compile(r"\*\*/?|\*|\?|\[\^?[^\]]+\]|\\.|.", re.DOTALL)
_LOOKED_AT: Final = 64 * 1024  # bytes of a file that may hold a key


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    keeps: bool


class Ignored:
    """The rules of a ``.dockerignore``.

    Args:
        text: Its content.
    """

    def __init__(self, text: str) -> None:
        self._patterns = [
            _Pattern(re.compile(_regex(line.lstrip("!").strip()), re.DOTALL), line.startswith("!"))
            for line in map(str.strip, text.removeprefix("\ufeff").splitlines())
            if line and not line.startswith("#")
        ]
        self._keeps_some = any(pattern.keeps for pattern in self._patterns)

    def __call__(self, path: str) -> bool:
        """Whether `path`, relative to the folder and with slashes, is left out.

        The last rule that speaks of it, or of a folder that it is in, decides.
        """
        ignored = False
        for pattern in self._patterns:
            if pattern.keeps is ignored and pattern.regex.fullmatch(path):
                ignored = not pattern.keeps
        return ignored

    def whole(self, folder: str) -> bool:
        """Whether nothing below `folder` can be sent."""
        return self(folder) and not self._keeps_some


def _regex(pattern: str) -> str:
    """The regular expression for a path that `pattern` names, or that is below such a one."""
    pattern = posixpath.normpath(pattern.replace(os.sep, "/")).lstrip("/")
    if pattern == ".":
        return r"(?!)"
    parts = []
    for part in _PARTS.findall(pattern):
        if part == "**/":
            parts.append("(?:.*/)?")
        elif part == "**":
            parts.append(".*")
        elif part == "*":
            parts.append("[^/]*")
        elif part == "?":
            parts.append("[^/]")
        elif part.startswith("[") and len(part) > 1:
            parts.append(f"[{_set(part[1:-1])}]")
        else:
            parts.append(re.escape(part[-1]))
    return f"{''.join(parts)}(?:/.*)?"


def _set(characters: str) -> str:
    """The inside of a set, without what only Python's expressions know there."""
    return re.sub(r"([\[\\&|~])", r"\\\1", characters).replace("--", r"\-\-")


def sent_files(folder: Path) -> Iterator[str]:
    """Paths of the files in `folder` that ``.dockerignore`` does not leave out, with slashes.

    Raises:
        UsageError: ``.dockerignore`` cannot be read.
    """
    try:
        ignored = Ignored((folder / ".dockerignore").read_text(encoding="utf-8"))
    except FileNotFoundError:
        ignored = Ignored("")
    except (OSError, UnicodeDecodeError, re.error) as exc:
        raise UsageError(f"cannot read {folder / '.dockerignore'}: {exc}") from exc
    for base, folders, names in os.walk(folder):
        below = Path(base).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        folders[:] = sorted(name for name in folders if not ignored.whole(f"{prefix}{name}"))
        yield from (prefix + name for name in sorted(names) if not ignored(prefix + name))


def check_secrets(folder: Path) -> None:
    """See that no credentials in `folder` are sent to a builder.

    Tests are left alone: what they need is made up, and the image does not have them.

    Raises:
        UsageError: There are some; names the files, and says how to leave them out.
    """
    found = [path for path in sent_files(folder) if _is_secret(folder, path)]
    if not found:
        return
    rules = sorted({_rule(path) for path in found})
    raise UsageError(
        f"{_listed(found)} would be copied into the image, for everyone who gets it to read. "
        f"Leave it out with a line {_listed(rules)} in .dockerignore, and give the values to the "
        "container when it runs: docker run --env-file FILE"
    )


def _is_secret(folder: Path, path: str) -> bool:
    name = posixpath.basename(path)
    if path.startswith("tests/") or not (folder / path).is_file():
        return False
    if _SECRET_NAMES.fullmatch(name) or _SECRET_PATHS.fullmatch(path):
        return (folder / path).stat().st_size > 0
    if not name.endswith(_KEY_FILES):
        return False
    try:
        with (folder / path).open("rb") as file:
            return _PRIVATE_KEY.search(file.read(_LOOKED_AT)) is not None
    except OSError:
        return False  # what cannot be read, the builder cannot send


def _rule(path: str) -> str:
    name = posixpath.basename(path)
    return f"**/{name}" if _SECRET_NAMES.fullmatch(name) else path


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
