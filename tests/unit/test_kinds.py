"""Which server serves, and what is said where one cannot."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fnship import serve
from fnship.errors import UsageError
from fnship.server import kinds
from fnship.server.asgi import Holder
from fnship.settings import Settings


def handle(logger: Any, request: Any) -> Any:
    return {}


@pytest.mark.parametrize("kind", ["asgi", "flask", "fastapi"])
def test_each_kind_can_be_imported(kind: str) -> None:
    kinds.check_kind(kind, Settings())


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="no server 'django'; the servers are asgi, flask"):
        kinds.check_kind("django", Settings())


@pytest.mark.parametrize("kind", ["asgi", "fastapi"])
def test_these_can_be_their_own_watchdog(kind: str) -> None:
    kinds.check_kind(kind, Settings(watchdog="native"))


def test_the_flask_server_cannot_be_its_own_watchdog() -> None:
    with pytest.raises(UsageError, match=r"WATCHDOG=native.*threads are busy.*behind of-watchdog"):
        kinds.check_kind("flask", Settings(watchdog="native"))


@pytest.mark.parametrize(
    ("kind", "modules", "package"),
    [
        ("flask", ("gthread", "wsgi"), "flask"),
        ("fastapi", ("fastapi_server", "fastapi"), "fastapi"),
    ],
)
def test_a_package_that_is_missing(
    kind: str, modules: tuple[str, ...], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.delitem(sys.modules, f"fnship.server.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs the package {package}.*pip install '{package}>="):
        kinds.check_kind(kind, Settings())


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_an_application_brings_its_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "flask":
        from fnship.server.wsgi import create_app as create_flask

        application: Holder = create_flask(handle, Settings())
    else:
        from fnship.server.fastapi import create_app as create_api

        application = create_api(handle, Settings())
    assert isinstance(application, Holder)
    assert application.server_kind == kind
    with pytest.raises(SystemExit) as ended:
        serve(application, server="asgi", port=0)
    assert ended.value.code == 2
    assert f"is served by the server {kind}, not by asgi" in capsys.readouterr().err
