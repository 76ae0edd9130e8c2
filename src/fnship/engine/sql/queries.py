"""Named queries: each ``.sql`` file of this package is a set of them.

A query begins with a line ``-- name: what_it_does`` and ends where the next one begins. Its
parameters are written ``:name``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

__all__ = ["load_queries", "migrations"]

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


@functools.cache
def load_queries(file: str) -> Mapping[str, str]:
    """The queries of one file, by their names.

    Args:
        file: Its name without ``.sql``.
    """
    text = resources.files("fnship.engine.sql").joinpath(f"{file}.sql").read_text("utf-8")
    _, *parts = _NAME.split(text)
    return MappingProxyType(
        {name: query.strip() for name, query in zip(parts[::2], parts[1::2], strict=True)}
    )


@functools.cache
def migrations() -> tuple[str, ...]:
    """The scripts that bring a database from each version to the next, the oldest first."""
    folder = resources.files("fnship.engine.sql").joinpath("migrations")
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    return tuple(folder.joinpath(name).read_text("utf-8") for name in names)
