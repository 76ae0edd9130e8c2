"""multipart/form-data, read as RFC 7578 and RFC 2046 write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Part", "parse_multipart"]

# name=token or name="quoted, with \" inside"
_PARAMETER: Final = re.compile(
    r';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^";\s]+))[ \t]*'
)
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PADDING: Final = b" \t"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: a form field, or a file where `filename` is not None.

    The names of its headers are in lower case.
    """

    name: str
    filename: str | None
    content_type: str
    body: bytes
    headers: Mapping[bytes, str] = field(default_factory=dict, compare=False)


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """Split a form into its parts.

    Args:
        content_type: The request's Content-Type, which names the boundary.
        body: The request's body.

    Raises:
        ValueError: It is no whole multipart/form-data; says what is wrong with it.
    """
    kind, parameters = _header_value(content_type)
    if kind != "multipart/form-data":
        raise ValueError("the Content-Type is not multipart/form-data")
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError("the Content-Type names no valid boundary")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    # The first delimiter may open the body, or follow a preamble that nobody reads.
    _, found, rest = (b"\r\n" + body).partition(delimiter)
    if not found:
        raise ValueError("the body has no boundary")
    parts = []
    while not rest.startswith(b"--"):
        section, found, rest = rest.partition(delimiter)
        if not found:
            raise ValueError("the body ends before its closing boundary")
        parts.append(_part(section))
    return parts


def _part(section: bytes) -> Part:
    """Read what stands between two delimiters."""
    padding, found, section = section.partition(b"\r\n")
    if not found or padding.strip(_PADDING):
        raise ValueError("a boundary is not followed by a new line")
    if section.startswith(b"\r\n"):
        raise ValueError("a part has no headers")
    head, found, body = section.partition(b"\r\n\r\n")
    if not found:
        raise ValueError("a part's headers do not end")
    headers = {}
    for line in head.split(b"\r\n"):
        name, found, value = line.partition(b":")
        if not found:
            raise ValueError("a part has a header without a colon")
        headers[name.strip().lower()] = value.strip().decode("utf-8", "replace")
    disposition, parameters = _header_value(headers.get(b"content-disposition", ""))
    if disposition != "form-data" or "name" not in parameters:
        raise ValueError("a part has no Content-Disposition that names it")
    return Part(
        name=parameters["name"],
        filename=parameters.get("filename"),
        content_type=headers.get(b"content-type", "text/plain"),
        body=body,
        headers=headers,
    )


def _header_value(text: str) -> tuple[str, dict[str, str]]:
    """``form-data; name="x"`` → ``("form-data", {"name": "x"})``."""
    kind, semicolon, _ = text.partition(";")
    parameters: dict[str, str] = {}
    position = len(kind)
    while semicolon and (match := _PARAMETER.match(text, position)):
        quoted, plain = match[2], match[3]
        value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters.setdefault(match[1].lower(), value)
        position = match.end()
    return kind.strip().lower(), parameters
