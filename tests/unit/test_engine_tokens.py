from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.engine.model import Scope
from fnship.engine.tokens import Tokens
from fnship.errors import TokenRefused

SCOPE = Scope("o", "p", "e", "dev")
TOKEN = Tokens(b"s" * 32, lambda: 10.0).mint("state", "a1", 3, SCOPE, 20.0)


def tokens(now: float = 10.0, secret: bytes = b"s" * 32) -> Tokens:
    return Tokens(secret, lambda: now)


def test_a_token_says_what_it_was_minted_for() -> None:
    grant = tokens().verify(TOKEN, "state")
    assert (grant.activity_id, grant.attempt, grant.scope, grant.expires) == ("a1", 3, SCOPE, 20.0)
    assert set(TOKEN) <= set(string.ascii_letters + string.digits + "._-")


def test_what_is_refused() -> None:
    with pytest.raises(TokenRefused, match="for state, not for log"):
        tokens().verify(TOKEN, "log")
    assert tokens(19.9).verify(TOKEN, "state").attempt == 3
    with pytest.raises(TokenRefused, match="expired"):
        tokens(20.0).verify(TOKEN, "state")
    with pytest.raises(TokenRefused, match="not made by this engine"):
        tokens(secret=b"t" * 32).verify(TOKEN, "state")


@given(at=st.integers(0, len(TOKEN) - 1), other=st.characters())
def test_a_token_with_any_other_character_is_refused(at: int, other: str) -> None:
    changed = TOKEN[:at] + other + TOKEN[at + 1 :]
    if changed != TOKEN:
        with pytest.raises(TokenRefused, match="not made by this engine"):
            tokens().verify(changed, "state")


@given(st.text() | st.text("1.-_aA=", max_size=60))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        tokens().verify(text, "state")


def test_the_secret_is_not_shown() -> None:
    assert "ssss" not in repr(tokens())
