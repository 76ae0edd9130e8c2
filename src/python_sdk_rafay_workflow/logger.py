"""The logger that a handler is given, under this name too."""

from fnship.function.activity_log import ActivityLogger

__all__ = ["ActivityLogger"]
