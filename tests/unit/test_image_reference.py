"""What images may be called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.errors import UsageError
from fnship.image.reference import check_image, image_name


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("hello", "hello:latest"),
        ("hello:1.0", "hello:1.0"),
        ("a/b-c/d__e.f:T_x-1", "a/b-c/d__e.f:T_x-1"),
        ("registry.example.com:5000/team/hello", "registry.example.com:5000/team/hello:latest"),
        ("localhost/hello:1", "localhost/hello:1"),
        ("[::1]:5000/hello:1", "[::1]:5000/hello:1"),
    ],
)
def test_a_name(given: str, taken: str) -> None:
    assert check_image("--tag", given) == taken


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Hello:1", "must be in lower case, hello:1"),
        ("", "is no name for an image"),
        ("hello:", "is no name"),
        (":1", "is no name"),
        ("hello:1:2", "is no name"),
        ("-hello", "is no name"),
        ("hello world", "is no name"),
        ("hello:" + "x" * 129, "is no name"),
        ("https://example.com/hello", "is no name"),
        ("hello@sha256:" + "0" * 64, "is no name"),
        ("hello\n", "is no name"),
        ("häuser", "is no name"),
        ("--force", "is no name"),
        ("a" * 300, "longer than 255"),
    ],
)
def test_no_name(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_image("--tag", given)


@given(st.text())
def test_any_folder_gives_one(name: str) -> None:
    made = image_name(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", made)
    assert check_image("--tag", made) == f"{made}:latest"
