"""Promises that outlive the process: what is handed over is run at least once, and when due."""

from __future__ import annotations

from fnship.engine.durable.interface import Again, Durable, Outstanding, Run

__all__ = ["Again", "Durable", "Outstanding", "Run"]
