"""The event behind an invocation."""

from fnship.function.events import EventDetails, EventType

__all__ = ["EventDetails", "EventType"]
