"""EventDetails and EventType, against a plain restatement of the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.function.events import EventDetails, EventType

SOURCES = ["action", "schedules", "workload", "environment", "", "other"]
TYPES = ["deploy", "destroy", "force-destroy"]


def request_of(source: Any, name: Any, kind: Any) -> dict[str, Any]:
    return {"metadata": {"eventSource": source, "eventSourceName": name, "eventType": kind}}


def test_types_are_the_words_of_the_wire() -> None:
    assert [str(each) for each in EventType] == TYPES
    assert f"{EventType.FORCE_DESTROY}" == "force-destroy"
    assert EventType("deploy") is EventType.DEPLOY
    assert EventType.DEPLOY == "deploy"
    assert json.dumps(EventType.DESTROY) == '"destroy"'


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"metadata": None},
        {"metadata": {}},
        request_of(None, None, None),
        request_of("", "", ""),
    ],
)
def test_no_event(request_: dict[str, Any]) -> None:
    event = EventDetails(request_)
    assert (event.source, event.source_name, event.type) == ("", "", None)
    assert event.get_type_as_string() == ""
    assert event.get_action_name() == ("", False)
    assert not event.is_deploy()
    assert not event.is_destroy()


@pytest.mark.parametrize("kind", ["Deploy", "undeploy", " deploy", "force_destroy"])
def test_an_unknown_type_is_none(kind: str) -> None:
    event = EventDetails(request_of("workload", "web", kind))
    assert event.type is None
    assert not event.is_workload_deploy()
    assert event.get_workload_name() == ("web", True)


@given(
    source=st.sampled_from(SOURCES),
    name=st.text(),
    kind=st.sampled_from([*TYPES, "other", None]),
)
def test_helpers(source: str, name: str, kind: str | None) -> None:
    event = EventDetails(request_of(source, name, kind))
    destroys = kind in ("destroy", "force-destroy")
    assert event.is_action() == (source == "action")
    assert event.is_schedules() == (source == "schedules")
    assert event.is_workload() == (source == "workload")
    for asked, found in [
        ("action", event.get_action_name()),
        ("schedules", event.get_schedules_name()),
        ("workload", event.get_workload_name()),
    ]:
        assert found == ((name, True) if source == asked else ("", False))
    assert event.is_deploy() == (kind == "deploy")
    assert event.is_destroy() == destroys
    assert event.is_force_destroy() == (kind == "force-destroy")
    assert event.get_type_as_string() == (kind if kind in TYPES else "")
    assert event.is_workload_deploy() == (source == "workload" and kind == "deploy")
    assert event.is_workload_destroy() == (source == "workload" and destroys)
    assert event.is_environment_deploy() == (source == "environment" and kind == "deploy")
    assert event.is_environment_destroy() == (source == "environment" and destroys)


def test_it_shows_itself() -> None:
    shown = repr(EventDetails(request_of("action", "backup", "deploy")))
    assert shown == "EventDetails(source='action', source_name='backup', type='deploy')"
