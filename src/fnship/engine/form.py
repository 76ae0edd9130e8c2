"""The form in which log lines come: file parts named ``content``, each with headers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fnship.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["FilePart", "read_form"]

_DISPOSITION: Final = b"content-disposition"


class FilePart(NamedTuple):
    """A file.

    Attributes:
        content: What is in it.
        headers: What stands above it; names in lower case.
    """

    content: bytes
    headers: dict[bytes, bytes]


def read_form(content_type: str, body: bytes) -> list[FilePart]:
    """The file parts ``content`` of a form; there is one at least.

    Args:
        content_type: With the form's boundary.
        body: The whole form.

    Raises:
        InvalidRequest: There is no such part, or it is no form.
    """
    try:
        kind, options = parse_options_header(content_type)
    except ValueError:
        kind, options = b"", {}
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("the body is no multipart/form-data")
    form = _Form()
    parser = MultipartParser(boundary, form.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as exc:
        raise InvalidRequest(f"the form is not valid: {exc}") from exc
    if not form.files or not form.whole:
        raise InvalidRequest("the form has no whole file part named content")
    return form.files


class _Form:
    """Collects the parts that are wanted."""

    def __init__(self) -> None:
        self.files: list[FilePart] = []
        self.whole = False
        self._field = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._content: list[bytes] | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._content = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(_DISPOSITION, b""))
        if options.get(b"name") == b"content" and b"filename" in options:
            self._content = []

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content.append(data[start:end])

    def _part_end(self) -> None:
        if self._content is not None:
            self.files.append(FilePart(b"".join(self._content), self._headers))

    def _end(self) -> None:
        self.whole = True
