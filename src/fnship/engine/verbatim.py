"""JSON that is kept as it was written, and handed on so: it must be readable for everybody."""

from __future__ import annotations

from typing import Final

from fnship.function import codec

__all__ = ["verbatim"]

_BOM: Final = b"\xef\xbb\xbf"


def verbatim(data: bytes) -> bytes:
    """See that JSON can be read, and give it as it may stand inside other JSON.

    Args:
        data: UTF-8 text; a byte order mark, which may stand at the beginning alone, is taken off.

    Raises:
        MalformedJSON: It cannot be read: it is none, is nested too deeply, or has a number in it
            that is out of range.
    """
    codec.decode(data)
    return data.removeprefix(_BOM)
