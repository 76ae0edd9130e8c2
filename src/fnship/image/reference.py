"""What images may be called."""

from __future__ import annotations

import re
from typing import Final

from fnship.errors import UsageError

__all__ = ["check_image", "check_reference", "image_name"]

_DOMAIN: Final = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:(?:{_DOMAIN}|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?",
    re.ASCII,
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST: Final = 255


def check_image(option: str, given: str) -> str:
    """`given`, with ``:latest`` where it has no tag.

    Raises:
        UsageError: No image can be called that; says what is wrong with it.
    """
    match = _IMAGE.fullmatch(given)
    if match is not None and len(given) <= _LONGEST:
        return given if match["tag"] else f"{given}:latest"
    hint = ""
    if match is not None:
        hint = f": it is longer than {_LONGEST} characters"
    elif _IMAGE.fullmatch(given.lower()):
        hint = f": it must be in lower case, {given.lower()}"
    raise UsageError(
        f"{option} {given!r} is no name for an image{hint}. "
        "Write it as name:tag, such as hello:1.0 or registry.example.com/team/hello:1.0"
    )


def check_reference(what: str, given: str) -> str:
    """`given`, the name of an image that may end in the digest that it must have.

    Raises:
        UsageError: No image can be called that; says what is wrong with it.
    """
    name, at, digest = given.partition("@")
    check_image(what, name)
    if at and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{what} {given!r} has no digest behind its @: expected sha256:…")
    return given


def image_name(name: str) -> str:
    """A name for the image of a function called `name`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "my-function"
