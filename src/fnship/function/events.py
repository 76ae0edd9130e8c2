"""What made the engine call: the event behind an invocation."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

__all__ = ["EventDetails", "EventType"]

_ACTION: Final = "action"
_SCHEDULES: Final = "schedules"
_WORKLOAD: Final = "workload"
_ENVIRONMENT: Final = "environment"


class EventType(StrEnum):
    """What happens to the thing that the event is about; ``str()`` gives the wire's word."""

    DEPLOY = "deploy"
    DESTROY = "destroy"
    FORCE_DESTROY = "force-destroy"


class EventDetails:
    """The event in a request's metadata.

    Args:
        request: What the handler was given. Absent or None metadata is an unknown event.

    Attributes:
        source: What kind of thing made the call, such as ``action``; empty where absent.
        source_name: That thing's name; empty where absent.
        type: What happens to it; None where absent or a word that `EventType` does not know.
    """

    source: str
    source_name: str
    type: EventType | None

    def __init__(self, request: Mapping[str, Any]) -> None:
        metadata: Mapping[str, Any] = request.get("metadata") or {}
        self.source = metadata.get("eventSource") or ""
        self.source_name = metadata.get("eventSourceName") or ""
        try:
            self.type = EventType(metadata.get("eventType") or "")
        except ValueError:
            self.type = None

    def __repr__(self) -> str:
        return (
            f"EventDetails(source={self.source!r}, source_name={self.source_name!r}, "
            f"type={self.get_type_as_string()!r})"
        )

    def is_action(self) -> bool:
        """Whether an action made the call."""
        return self.source == _ACTION

    def is_schedules(self) -> bool:
        """Whether a schedule made the call."""
        return self.source == _SCHEDULES

    def is_workload(self) -> bool:
        """Whether a workload made the call."""
        return self.source == _WORKLOAD

    def get_action_name(self) -> tuple[str, bool]:
        """The action's name and True; an empty name and False where it was no action."""
        return self._name_of(_ACTION)

    def get_schedules_name(self) -> tuple[str, bool]:
        """The schedule's name and True; an empty name and False where it was no schedule."""
        return self._name_of(_SCHEDULES)

    def get_workload_name(self) -> tuple[str, bool]:
        """The workload's name and True; an empty name and False where it was no workload."""
        return self._name_of(_WORKLOAD)

    def is_deploy(self) -> bool:
        """Whether something is being deployed."""
        return self.type == EventType.DEPLOY

    def is_destroy(self) -> bool:
        """Whether something is being destroyed, by force or not."""
        return self.type in (EventType.DESTROY, EventType.FORCE_DESTROY)

    def is_force_destroy(self) -> bool:
        """Whether something is being destroyed by force."""
        return self.type == EventType.FORCE_DESTROY

    def get_type_as_string(self) -> str:
        """The type as the wire spells it; empty where there is none."""
        return str(self.type or "")

    def is_workload_deploy(self) -> bool:
        """Whether a workload is being deployed."""
        return self.is_workload() and self.is_deploy()

    def is_workload_destroy(self) -> bool:
        """Whether a workload is being destroyed, by force or not."""
        return self.is_workload() and self.is_destroy()

    def is_environment_deploy(self) -> bool:
        """Whether an environment is being deployed."""
        return self.source == _ENVIRONMENT and self.is_deploy()

    def is_environment_destroy(self) -> bool:
        """Whether an environment is being destroyed, by force or not."""
        return self.source == _ENVIRONMENT and self.is_destroy()

    def _name_of(self, source: str) -> tuple[str, bool]:
        return (self.source_name, True) if self.source == source else ("", False)
