from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from fnship.testing.multipart import Part, parse_multipart

TYPE = "multipart/form-data; boundary=XX"


def one_part(body: bytes, head: bytes = b'Content-Disposition: form-data; name="n"') -> bytes:
    return b"--XX\r\n" + head + b"\r\n\r\n" + body + b"\r\n--XX--\r\n"


@given(
    st.lists(
        st.tuples(
            st.text("abcxyz_- é", min_size=1),
            st.text('abc ."\\é', min_size=1),
            st.binary(),
        ),
        max_size=4,
    )
)
def test_reads_what_a_client_writes(files: list[tuple[str, str, bytes]]) -> None:
    fields = [(name, (filename, body, "text/plain")) for name, filename, body in files]
    body, content_type = encode_multipart_formdata(fields)
    # The client writes quotes as %22, as browsers do; the rest arrives as it was.
    expected = [
        Part(name, filename.replace('"', "%22"), "text/plain", body)
        for name, filename, body in files
    ]
    if not any("\\" in filename for _, filename, _ in files):
        assert parse_multipart(content_type, body) == expected


def test_content_that_looks_like_a_boundary_is_content() -> None:
    body = b" --XX\n--XX--\r\n--X\n XX\r\n"
    assert parse_multipart(TYPE, one_part(body))[0].body == body


def test_a_preamble_padding_and_an_epilogue_are_ignored() -> None:
    body = b"for old readers\r\n--XX \t\r\ncontent-disposition:form-data; name=n\r\n\r\nyes"
    body += b"\r\n--XX--\r\nand so on"
    assert parse_multipart(TYPE, body) == [Part("n", None, "text/plain", b"yes")]


def test_quoted_parameters() -> None:
    head = b'Content-Disposition: form-data; name="a\\"b;c"; filename="x\\\\y"'
    part = parse_multipart('Multipart/Form-Data; charset=utf-8; boundary="XX"', one_part(b"", head))
    assert (part[0].name, part[0].filename) == ('a"b;c', "x\\y")


@pytest.mark.parametrize(
    ("content_type", "body", "problem"),
    [
        ("", one_part(b""), "not multipart"),
        ("text/plain; boundary=XX", one_part(b""), "not multipart"),
        ("multipart/form-data", one_part(b""), "no valid boundary"),
        (f"multipart/form-data; boundary={'x' * 71}", one_part(b""), "no valid boundary"),
        (TYPE, b"", "has no boundary"),
        (TYPE, b"--YY\r\n", "has no boundary"),
        (TYPE, one_part(b"")[:-6], "before its closing boundary"),
        (TYPE, b"--XXsurplus\r\n\r\n--XX--", "not followed by a new line"),
        (TYPE, b"--XX\r\n\r\nbody\r\n--XX--", "no headers"),
        (TYPE, b"--XX\r\nA: b\r\n--XX--", "do not end"),
        (TYPE, one_part(b"", b"no colon"), "without a colon"),
        (TYPE, one_part(b"", b"Content-Type: text/plain"), "no Content-Disposition"),
        (TYPE, one_part(b"", b"Content-Disposition: form-data"), "no Content-Disposition"),
    ],
)
def test_refuses_what_is_no_form(content_type: str, body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_multipart(content_type, body)


@given(st.binary(max_size=60))
def test_rubbish_is_a_value_error_and_nothing_else(rubbish: bytes) -> None:
    for body in (rubbish, one_part(b"", rubbish), b"--XX\r\n" + rubbish):
        with contextlib.suppress(ValueError):
            parse_multipart(TYPE, body)
