"""What a function's requirements files ask for, and on which line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fnship.errors import UsageError

__all__ = ["FILES", "Requirement", "canonical", "find", "read_requirements"]

FILES: Final = ("requirements.txt", "function/requirements.txt")

_NAME: Final = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:[\[<>=!~;@,(]|\s|$)")
_WHEEL: Final = re.compile(r"(?:.*/)?([A-Za-z0-9_.]+)-[^-/]+(?:-[^-/]+){3,4}\.whl")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of a requirements file.

    Attributes:
        file: The file, below the function's folder.
        line: Its line, counted from 1.
        text: What stands there, without its comment.
        name: The package's canonical name.
        path: The wheel that it names by path; empty where an index is asked.
    """

    file: str
    line: int
    text: str
    name: str
    path: str

    @property
    def place(self) -> str:
        """Where it stands, such as ``requirements.txt:2``."""
        return f"{self.file}:{self.line}"


def canonical(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(folder: Path) -> list[Requirement]:
    """The requirements of the function in `folder`, without pip's options.

    Raises:
        UsageError: A file cannot be read, or there is no ``requirements.txt``.
    """
    found: list[Requirement] = []
    for name in FILES:
        path = folder / name
        if name != FILES[0] and not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as exc:
            raise UsageError(
                f"there is no {name} in {folder}: it names what serves the function"
            ) from exc
        except OSError as exc:
            raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise UsageError(f"{path} is not UTF-8: byte {exc.start + 1}") from exc
        found += _parse(name, text)
    return found


def find(requirements: Iterable[Requirement], name: str) -> Requirement | None:
    """The first of `requirements` for the package `name`."""
    wanted = canonical(name)
    return next((each for each in requirements if each.name == wanted), None)


def _parse(file: str, text: str) -> list[Requirement]:
    found = []
    number, joined = 0, ""
    for index, line in enumerate(text.splitlines(), 1):
        number = number or index
        bare = re.sub(r"(^|\s)#.*", "", line).rstrip()
        joined += bare.removesuffix("\\")
        if bare.endswith("\\"):
            continue
        if requirement := _requirement(file, number, joined.strip()):
            found.append(requirement)
        number, joined = 0, ""
    return found


def _requirement(file: str, line: int, text: str) -> Requirement | None:
    if not text or text.startswith("-"):
        return None
    first = text.split(maxsplit=1)[0].partition("[")[0].partition(";")[0]
    if wheel := _WHEEL.fullmatch(first):
        return Requirement(file, line, text, canonical(wheel[1]), first)
    if name := _NAME.match(text):
        return Requirement(file, line, text, canonical(name[1]), "")
    return None
