"""The form that brings log lines to an engine: a file part for each batch of lines."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["FormPart", "write_form"]

_BOUNDARY: Final = "fnship-log-content"
_ABOUT: Final = (
    b'Content-Disposition: form-data; name="content"; filename="stdout"\r\n'
    b"Content-Type: text/plain\r\n"
)


class FormPart(NamedTuple):
    """A batch of lines.

    Attributes:
        content: Whole lines.
        headers: What stands above them beside the usual.
    """

    content: bytes
    headers: Mapping[str, str] = {}


def write_form(parts: Sequence[FormPart]) -> tuple[str, bytes]:
    """Write a form.

    Returns:
        Its Content-Type, and itself.
    """
    boundary = _boundary(parts)
    delimiter = b"--" + boundary.encode()
    pieces: list[bytes] = []
    for part in parts:
        pieces += (delimiter, b"\r\n", _ABOUT)
        for name, value in part.headers.items():
            pieces.append(f"{name}: {value}\r\n".encode())
        pieces += (b"\r\n", part.content, b"\r\n")
    pieces += (delimiter, b"--\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _boundary(parts: Sequence[FormPart]) -> str:
    """A boundary that occurs in none of them; nearly always the plain one."""
    boundary = _BOUNDARY
    while any(boundary.encode() in part.content for part in parts):
        boundary = f"{_BOUNDARY}-{secrets.token_hex(8)}"
    return boundary
