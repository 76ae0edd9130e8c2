"""The tokens of the engine's API."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fnship.engine.auth import Authority, Role
from fnship.errors import Missing, NotAllowed, StorageError, TokenRefused, UsageError

MAIN = "the-main-token-of-this-test"
NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> str:
    return f"Bearer {token}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority(MAIN, tmp_path / "tokens.json", clock)


def test_the_main_token_allows_everything(authority):
    for needed in Role:
        assert authority.check(bearer(MAIN), needed) is Role.ADMIN


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_as_http_has_it(authority, scheme):
    assert authority.check(f" {scheme} {MAIN} ", Role.ADMIN)


@pytest.mark.parametrize(
    ("has", "allowed"),
    [(Role.READ, {Role.READ}), (Role.INVOKE, {Role.READ, Role.INVOKE}), (Role.ADMIN, set(Role))],
)
def test_a_role_allows_what_those_before_it_do(authority, has, allowed):
    _, token = authority.mint(has)
    for needed in Role:
        if needed in allowed:
            assert authority.check(bearer(token), needed) is has
        else:
            with pytest.raises(NotAllowed, match=f"the role {has}, and this needs {needed}"):
                authority.check(bearer(token), needed)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer  ",
        f"Basic {MAIN}",
        MAIN,
        f"Bearer {MAIN}x",
        f"Bearer {MAIN[:-1]}",
        "Bearer fnship_",
        "Bearer fnship__",
        "Bearer fnship_0123456789ab_nothing",
        "Bearer \udcff\udcfe",
        "Bearer " + "x" * 100_000,
    ],
)
def test_what_is_no_token_of_this_engine_is_refused(authority, authorization):
    authority.mint(Role.ADMIN)
    with pytest.raises(TokenRefused) as caught:
        authority.check(authorization, Role.READ)
    assert MAIN not in str(caught.value)


def test_no_character_of_a_token_can_be_another(authority):
    _, token = authority.mint(Role.READ)
    for index in range(len(token)):
        other = "A" if token[index] != "A" else "B"
        with pytest.raises(TokenRefused):
            authority.check(bearer(token[:index] + other + token[index + 1 :]), Role.READ)
    with pytest.raises(TokenRefused):
        authority.check(bearer(token + "A" * 2000), Role.READ)


def test_a_token_expires(authority, clock):
    _, token = authority.mint(Role.READ, NOW + 10)
    clock.now = NOW + 9.9
    assert authority.check(bearer(token), Role.READ)
    clock.now = NOW + 10
    with pytest.raises(TokenRefused, match="expired"):
        authority.check(bearer(token), Role.READ)
    assert authority.records() == []


def test_a_token_is_good_after_a_restart_and_kept_nowhere(authority, tmp_path, clock):
    token_id, token = authority.mint(Role.INVOKE, NOW + 10, "deployer")
    file = tmp_path / "tokens.json"
    again = Authority(MAIN, file, clock)
    assert again.check(bearer(token), Role.INVOKE) is Role.INVOKE
    [record] = again.records()
    assert (record.id, record.name, record.expires) == (token_id, "deployer", NOW + 10)
    assert token not in file.read_text()
    assert token.rpartition("_")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_revoked_token_is_refused_at_once_and_for_ever(authority, tmp_path):
    token_id, token = authority.mint(Role.READ)
    _, other = authority.mint(Role.READ)
    authority.revoke(token_id)
    for each in (authority, Authority(MAIN, tmp_path / "tokens.json")):
        with pytest.raises(TokenRefused, match="revoked"):
            each.check(bearer(token), Role.READ)
        assert each.check(bearer(other), Role.READ)
    with pytest.raises(Missing, match=token_id):
        authority.revoke(token_id)


def test_what_has_expired_leaves_the_file_with_the_next_change(authority, tmp_path, clock):
    old, _ = authority.mint(Role.READ, NOW + 1)
    clock.now = NOW + 2
    new, _ = authority.mint(Role.READ)
    kept = (tmp_path / "tokens.json").read_text()
    assert old not in kept
    assert new in kept


def test_a_token_that_cannot_be_kept_is_not_made(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    authority = Authority(MAIN, folder / "tokens.json")
    folder.rmdir()
    with pytest.raises(StorageError, match="tokens cannot be kept"):
        authority.mint(Role.READ)
    assert authority.records() == []


def test_a_file_that_is_none_of_ours_is_said(tmp_path):
    file = tmp_path / "tokens.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match=r"tokens\.json cannot be used"):
        Authority(MAIN, file)
