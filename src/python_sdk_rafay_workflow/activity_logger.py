"""The logger that a handler is given."""

from fnship.function.activity_log import ActivityLogger

__all__ = ["ActivityLogger"]
